"""Connect to Ray: start a cluster of our own on loopback, or join a running one.

Several Ray instances may run on one host. The address of ours is exported before anything starts,
so no process of it has to guess. Ray Train's placement group cleaner gives up when it finds two
instances.
"""

import contextlib
import json
import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants, state, worker
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from orchestrator.config.resources import (
    ANSWER_S,
    accepts_connections,
    find_cluster,
    local_resources,
    ray_folder,
)
from orchestrator.core.allocator import allocator
from orchestrator.core.errors import UNFIT_ENVIRONMENT, PreflightError
from orchestrator.core.proxies import NAMES, bypass_proxies, without_proxy
from orchestrator.core.signals import give_up, remaining_timeout

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
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
LOOPBACK = "127.0.0.1"
# many times what a shutdown takes; half of it for the rest, after the processes were killed
SHUTDOWN_S = 20.0
LOOPBACK_INTERFACES = ("lo", "lo0")  # on Linux, on macOS
# without these, workers use the network that the host's name belongs to
BETWEEN_WORKERS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
PACKAGES = [
    str(Path(__file__).parents[2] / name) for name in ("orchestrator", "methods", "search_spaces")
]


@contextlib.contextmanager
def connect_to_ray(address: str | None, cpus: int | None = None) -> Iterator[Mapping[str, float]]:
    """Yield Ray's free resources while connected.

    Args:
        address: Address of a running cluster; None starts a cluster of our own.
        cpus: CPUs of a cluster of our own; None: all that this process may use.
    """
    before, clusters = dict(os.environ), ray_constants.ENABLE_RAY_CLUSTER
    os.environ.update(
        allocator() | {name: os.environ.get(name, value) for name, value in TRAIN.items()}
    )
    try:
        if address:
            _join(address)
        else:
            _start(cpus)
        # other jobs may hold a part of a running cluster
        yield ray.available_resources() if address else ray.cluster_resources()
    finally:
        _shut_down()
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _shut_down() -> None:
    """Disconnect from Ray within a time limit.

    `ray.shutdown` waits for an answer without a limit, for example after the head was stopped. A
    Ray of our own that is late is killed. If that does not help, this process exits.
    """
    over, node = threading.Event(), worker._global_node

    def watch() -> None:
        if not over.wait(remaining_timeout(SHUTDOWN_S)) and node is not None:
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        if not over.wait(SHUTDOWN_S / 2):
            give_up(
                "error: Ray does not end: what was not written is made up for by `--resume`",
                UNFIT_ENVIRONMENT,
            )

    thread = threading.Thread(target=watch, name="shutdown", daemon=True)
    thread.start()
    try:
        ray.shutdown()
    finally:
        over.set()
        thread.join()


def nodes() -> list[dict[str, float]]:
    """Return the resources of each live node, free or not, under Ray's names.

    Ray is connected.
    """
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def bring_token() -> None:
    """Load our token for a running cluster, if there is one.

    Ray's own commands do so; `ray.init` and the job client do not.
    """
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def free_nodes() -> list[dict[str, float]]:
    """Return the free resources of each live node.

    All jobs count: resources that other jobs hold are not free.
    """
    free = state.available_resources_per_node()
    return [dict(free.get(node, {})) for node in alive_nodes()]


def alive_nodes() -> frozenset[str]:
    """Return the ids of the live nodes."""
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def running_actors(kind: str) -> int:
    """Return the number of live actors of a class that belong to this process's job."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    actors = state.actors(job_id=job, actor_state_name="ALIVE").values()
    return sum(str(actor["ActorClassName"]).rpartition(".")[2] == kind for actor in actors)


def answers() -> bool:
    """Return whether the head of the cluster answers within `ANSWER_S`.

    A stopped head does not answer. Ray's own calls would wait for it.
    """
    if not accepts_connections(os.environ["RAY_ADDRESS"]):
        return False
    with contextlib.suppress(ray.exceptions.RayError):
        worker.global_worker.gcs_client.internal_kv_get(b"distillation", None, timeout=ANSWER_S)
        return True
    return False


def _join(address: str) -> None:
    bring_token()
    there = find_cluster(address)
    bypass_proxies(there)
    try:
        context = ray.init(
            address=there,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env=runtime_environment(),
        )
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:300]
        raise PreflightError(
            f"resources.address = {address!r}: no Ray cluster lets us in there ({reason}): "
            f"start one, give --address local, "
            "or, if it wants a token, set RAY_AUTH_MODE=token and put the token where "
            "RAY_AUTH_TOKEN_PATH says",
            field="resources.address",
            value=address,
            allowed="a Ray cluster that this user may join, or local",
        ) from error
    os.environ["RAY_ADDRESS"] = context.address_info["gcs_address"]
    bypass_proxies(
        context.dashboard_url or "", *(node["NodeManagerAddress"] for node in ray.nodes())
    )


def _alone() -> dict[str, str]:
    """Return the environment that keeps a cluster of our own on this machine.

    Values that the user has set are kept.
    """
    interface = next(
        (name for _, name in socket.if_nameindex() if name in LOOPBACK_INTERFACES), None
    )
    # by default Ray sends usage statistics to its developers
    wanted = {name: interface for name in BETWEEN_WORKERS if interface} | {
        "RAY_USAGE_STATS_ENABLED": "0"
    }
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def runtime_environment() -> dict[str, Any]:
    """Return the runtime environment of every worker of a running cluster.

    It holds the environment variables and this program, which a node may lack. In a submitted job
    the program is part of the job already, and Ray refuses settings that repeat the job's.
    """
    job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR) or "{}").get("runtime_env") or {}
    theirs = job.get("env_vars") or {}
    # Ray expands the variable to the node's own value
    direct = {name: f"{without_proxy()},${{{name}}}" for name in NAMES}
    ours: dict[str, Any] = {
        "env_vars": {
            name: value for name, value in (allocator() | direct).items() if name not in theirs
        }
    }
    if not {"working_dir", "py_modules", "excludes"} & set(job):
        ours |= {"py_modules": PACKAGES, "excludes": ["**/__pycache__"]}
    return ours


def _start(cpus: int | None) -> None:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    os.environ.update(OWN_CLUSTER | _alone() | {"RAY_GCS_SERVER_PORT": str(port)})
    ray_constants.ENABLE_RAY_CLUSTER = False
    os.environ["RAY_ADDRESS"] = f"{LOOPBACK}:{port}"
    try:
        ray.init(
            address="local",
            num_cpus=cpus if cpus is not None else int(local_resources()["CPU"]),
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except Exception as error:  # Ray raises a bare Exception if a raylet dies at its start
        name, folder = ray_folder()
        where = f"its files go to {folder}{f', as {name} says' if name else ''}"
        raise PreflightError(
            f"Ray could not be started on this machine ({' '.join(str(error).split())[:300]}); "
            f"{where}: see whether that is a "
            "folder that you may write, with space, or set RAY_TMPDIR to one",
            field=name or "RAY_TMPDIR",
            value=folder,
            allowed="a folder that you may write, with space",
        ) from error
