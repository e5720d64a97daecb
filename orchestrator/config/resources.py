"""Determine the resources of this machine and the address of the Ray cluster, before Ray starts."""

import contextlib
import os
import socket
import sys
from pathlib import Path

from orchestrator.config.schema import Resources
from orchestrator.core.errors import PreflightError

# Ray sets this for a submitted job; the job uses the cluster to which it was submitted.
LOCAL = "local"  # value of resources.address that starts Ray here whatever RAY_ADDRESS is
JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
ANSWER_S = 5.0
# Bytes of the longest path to which a socket can be bound.
LONGEST_SOCKET = 107 if sys.platform == "linux" else 103
# The longest socket path of Ray, relative to its folder.
SOCKET = "ray/session_2030-12-31_23-59-59_999999_{pid}/sockets/plasma_store"
CGROUP = Path("/sys/fs/cgroup/cpu.max")
CGROUP_MEMORY = Path("/sys/fs/cgroup/memory.max")


def local_resources() -> dict[str, float]:
    """Return the CPUs that this process may use, and the GPUs, under Ray's names."""
    import torch  # 2 s, which a run spends after its first line

    return {"CPU": float(local_cpus()), "GPU": float(torch.cuda.device_count())}


def local_memory() -> int:
    """Return the bytes of memory that this process may use; 0 if unknown.

    This is the smaller of the machine's memory and the container's limit.
    """
    limits = []
    with contextlib.suppress(OSError, ValueError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(OSError, ValueError):  # cgroup v2: "max", or bytes
        limits.append(int(CGROUP_MEMORY.read_text()))
    return min(limits, default=0)


def local_cpus() -> int:
    """Return the number of CPUs that this process may use.

    This is the minimum of the machine's CPUs, the process's affinity and the container's quota.
    """
    counts = [os.cpu_count() or 1]
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        counts.append(len(os.sched_getaffinity(0)))
    # cgroup v2: "max 100000", or "200000 100000" for two CPUs
    with contextlib.suppress(OSError, ValueError):
        quota, period = CGROUP.read_text().split()
        counts.append(max(1, int(quota) // int(period)))
    return min(counts)


def ray_folder() -> tuple[str, str]:
    """Return the environment variable that sets Ray's session folder, and the folder.

    Returns:
        The name of the variable, empty for Ray's default folder, and the folder.
    """
    for name in ("RAY_TMPDIR", *(("TMPDIR",) if sys.platform == "linux" else ())):
        if name in os.environ:
            return name, os.environ[name]
    return "", "/tmp"


def require_short_sockets() -> None:
    """Require a session folder of Ray whose path is short enough for sockets.

    Raises:
        PreflightError: The path of a socket would be too long to be bound.
    """
    name, folder = ray_folder()
    longest = len(os.path.join(folder, SOCKET.format(pid=os.getpid())).encode())
    if longest > LONGEST_SOCKET:
        most = LONGEST_SOCKET - len(SOCKET.format(pid=2**22)) - 1
        raise PreflightError(
            f"{name} = {folder} is too long: the paths of Ray's sockets would have {longest} "
            f"bytes, and at most {LONGEST_SOCKET} are allowed: set {name} to a path of at most "
            f"{most} bytes, or set RAY_TMPDIR=/tmp for Ray only"
        ).with_details(name, folder, f"at most {most} bytes")


def cluster_address(resources: Resources) -> str | None:
    """Return the address of the running cluster to use, or None to start Ray here.

    Within a job of `ray job submit`, `RAY_ADDRESS` takes precedence over the configured address.
    Elsewhere the configured address takes precedence, `local` included.
    """
    known = os.environ.get("RAY_ADDRESS")
    if known and JOB in os.environ:
        return known
    return None if resources.address == LOCAL else resources.address or known


def find_cluster(address: str) -> str:
    """Return the host:port of a running cluster.

    Args:
        address: The host:port, which is returned as it is, or `auto` for the cluster on this
            machine.

    Raises:
        PreflightError: The address is `auto` and no cluster runs on this machine.
    """
    if address != "auto":
        return address
    from ray._private.services import canonicalize_bootstrap_address

    try:
        resolved: str | None = canonicalize_bootstrap_address("auto")
    except (ConnectionError, ValueError) as error:
        raise PreflightError(
            "resources.address = 'auto': no Ray cluster is running on this machine: start one with "
            "`ray start --head`, give the host:port of another one, or give --address local to "
            "start Ray here"
        ).with_details(
            "resources.address", address, "a Ray cluster that runs on this machine"
        ) from error
    assert resolved is not None, "Ray resolves `auto` to an address or raises"
    return resolved


def accepts_connections(address: str) -> bool:
    """Return whether a server accepts connections at `host:port` within `ANSWER_S` seconds.

    Raises:
        ValueError: The port is not a number.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except (OSError, OverflowError):  # OverflowError: a port beyond 65535
        return False
    return True


def require_answer(address: str) -> None:
    """Require a server at `host:port`, or at the address that `auto` resolves to.

    Ray itself would retry for minutes.

    Raises:
        PreflightError: No server accepts connections, or the address is that of Ray Client.
    """
    if address.startswith("ray://"):
        raise PreflightError(
            f"resources.address = {address!r} is an address of Ray Client, which is not supported: "
            f"give the host:port of the cluster, or use `ray job submit`"
        ).with_details("resources.address", address, "host:port of the cluster")
    resolved = find_cluster(address)
    host, _, port = resolved.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except (OSError, ValueError) as error:
        last = f" (resolved to {resolved})" if resolved != address else ""
        raise PreflightError(
            f"resources.address = {address!r}{last} does not accept connections ({error}): give "
            f"the host:port of a running Ray cluster, or --address local to start Ray here"
        ).with_details(
            "resources.address", address, "host:port of a running Ray cluster, or local"
        ) from error
