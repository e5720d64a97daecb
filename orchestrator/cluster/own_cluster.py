"""Start a Ray cluster of our own on loopback, in the background.

This module does not import Ray, which takes half a second.
"""

import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil

from orchestrator.config.resources import local_cpus
from orchestrator.core import project
from orchestrator.core.allocator import allocator
from orchestrator.core.signals import remaining_timeout

TRAIN = {  # values that the user has set are kept
    # interval of Ray Train's health checks; a group ends within this, not within 2 s
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # a group that cannot be placed ends after this, not after a minute; another resumes its trial
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    # one actor per group that waits for a cloud's preemption of a node; a lost node is noticed
    # without it
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
OWN_CLUSTER = {
    # Ray uses loopback only where clusters are disabled; it reads this at import, and its processes
    # read it from the environment
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"
}
LOOPBACK = "127.0.0.1"
LOOPBACK_INTERFACES = ("lo", "lo0")  # on Linux, on macOS
# without these, workers use the network of the host name
BETWEEN_WORKERS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from orchestrator.cluster._head_process import main; "
    "main(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))"
)
READY = "ready"  # the program prints this when the cluster runs, or else the reason
START_S = 60.0  # a busy machine needs a third of it
END_S = 2.0  # for an orderly end


class OwnCluster:
    """Processes of a Ray cluster of our own, which end with this process at the latest.

    Attributes:
        environment: The variables of the processes, and of a driver that connects to them.
    """

    def __init__(self, cpus: int | None = None) -> None:
        """Start the first process, which starts the others.

        Args:
            cpus: CPUs of the cluster; None: all that this process may use.
        """
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = probe.getsockname()[1]
        self.address = f"{LOOPBACK}:{port}"
        self.environment = common_environment() | OWN_CLUSTER | _local_environment()
        self.environment |= {"RAY_ADDRESS": self.address}
        values = (project.PACKAGES, LOOPBACK, port, cpus if cpus is not None else local_cpus())
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, *map(str, values)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | self.environment,
            text=True,
        )
        self._runs = False

    def wait(self) -> None:
        """Wait until the cluster runs.

        Raises:
            RuntimeError: It does not start, or not within `START_S`.
        """
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], START_S)[0]:
            raise RuntimeError(f"it was not ready after {START_S:g} s")
        line = self._process.stdout.readline().strip()
        self._runs = line == READY
        if not self._runs:
            raise RuntimeError(line or "its first process ended")

    def kill(self) -> None:
        """Kill the processes."""
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """End the processes: in order if the cluster runs, else at once."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(remaining_timeout(END_S) if self._runs else 0.0)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process.stdout.close()


_early_clusters: list[OwnCluster] = []


@contextlib.contextmanager
def start_early() -> Iterator[None]:
    """Start a cluster of our own in the background, for the driver that connects in the block.

    At the end of the block the cluster ends if nobody has taken it.
    """
    _early_clusters.append(OwnCluster())
    try:
        yield
    finally:
        while _early_clusters:
            _early_clusters.pop().end()


def list_early_processes() -> set[int]:
    """Return the ids of the processes that `start_early` has started and nobody has taken."""
    return {cluster._process.pid for cluster in _early_clusters}


def take_cluster(cpus: int | None) -> OwnCluster:
    """Return the cluster of `start_early`, or a new one; the caller ends it.

    Args:
        cpus: CPUs of a new cluster; None: all that this process may use.
    """
    return _early_clusters.pop() if _early_clusters and cpus is None else OwnCluster(cpus)


def common_environment() -> dict[str, str]:
    """Return the variables of a driver and its workers on any cluster."""
    return allocator() | {name: os.environ.get(name, value) for name, value in TRAIN.items()}


def _local_environment() -> dict[str, str]:
    """Return the environment that keeps a cluster of our own on this machine.

    Values that the user has set are kept.
    """
    interface = next(
        (name for _, name in socket.if_nameindex() if name in LOOPBACK_INTERFACES), None
    )
    # by default Ray sends usage statistics to its developers
    variables = {name: interface for name in BETWEEN_WORKERS if interface} | {
        "RAY_USAGE_STATS_ENABLED": "0"
    }
    return {name: os.environ.get(name, value) for name, value in variables.items()}
