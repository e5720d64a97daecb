"""Connects to Ray: a cluster of our own on loopback, or one that is running; then says what it has. Knows nothing of trials.

Several Ray instances may live on one host: the address of ours is exported before anything starts, so that no
process of it ever has to guess (Ray Train's placement group cleaner gives up when it finds two).
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
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from orchestrator.config.resources import ANSWER_S, find_cluster, listens, local_resources, ray_folder
from orchestrator.core.allocator import allocator
from orchestrator.core.errors import UNFIT_ENVIRONMENT, PreflightError
from orchestrator.core.proxies import NAMES, bypass_proxies, without_proxy
from orchestrator.core.signals import give_up, remaining_timeout

TRAIN = {  # what the user has set stays
    # Ray Train asks its workers how they are; a group ends within this, not within 2 s
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # a group that finds no place ends after this, not after a minute, and another one takes up its trial
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    # an actor per group that waits for a cloud to take a node away; a node that is gone is noticed without it
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
OWN_CLUSTER = {
    # Ray takes loopback for itself only where it knows no clusters; it reads this at import, its processes from the environment
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
LOOPBACK = "127.0.0.1"
SHUTDOWN_S = 20.0  # many times what it takes; for what is left of it when the processes are ended as well, half
LOOPBACK_INTERFACES = ("lo", "lo0")  # on Linux, on macOS
BETWEEN_WORKERS = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")  # else they take the network that the host's name belongs to
PACKAGES = [str(Path(__file__).parents[2] / name) for name in ("orchestrator", "methods", "search_spaces")]


@contextlib.contextmanager
def connect_to_ray(address: str | None, cpus: int | None = None) -> Iterator[Mapping[str, float]]:
    """Ray's free resources, while connected; `address` None: of a cluster of our own."""
    before, clusters = dict(os.environ), ray_constants.ENABLE_RAY_CLUSTER
    os.environ.update(allocator() | {name: os.environ.get(name, value) for name, value in TRAIN.items()})
    try:
        if address:
            _join(address)
        else:
            _start(cpus)
        # of a running cluster somebody else may hold a part
        yield ray.available_resources() if address else ray.cluster_resources()
    finally:
        _shut_down()
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _shut_down() -> None:
    """Disconnect. A Ray that does not let us go in time is ended, if it is ours; if that does not help, this process ends.

    As where the head is stopped: `ray.shutdown` waits for its answer without a limit.
    """
    over, node = threading.Event(), worker._global_node

    def watch() -> None:
        if not over.wait(remaining_timeout(SHUTDOWN_S)) and node is not None:
            node.kill_all_processes(check_alive=False, allow_graceful=False)
        if not over.wait(SHUTDOWN_S / 2):
            give_up("error: Ray does not end: what was not written is made up for by `--resume`", UNFIT_ENVIRONMENT)

    thread = threading.Thread(target=watch, name="shutdown", daemon=True)
    thread.start()
    try:
        ray.shutdown()
    finally:
        over.set()
        thread.join()


def nodes() -> list[dict[str, float]]:
    """What each node that is alive has, free or not, under Ray's names; Ray is connected."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def bring_token() -> None:
    """Show a running cluster our token, if there is one: Ray's own commands do so, `ray.init` and the job client do not."""
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def free_nodes() -> list[dict[str, float]]:
    """What each node that is alive has free. Of all that Ray counts: what other jobs hold is not in it."""
    free = state.available_resources_per_node()
    return [dict(free.get(node, {})) for node in alive_nodes()]


def alive_nodes() -> frozenset[str]:
    """The ids of the nodes that are alive."""
    return frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])


def running_actors(kind: str) -> int:
    """How many actors of that class run for this process."""
    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())
    actors = state.actors(job_id=job, actor_state_name="ALIVE").values()
    return sum(str(actor["ActorClassName"]).rpartition(".")[2] == kind for actor in actors)


def answers() -> bool:
    """Whether the head of the cluster answers within `ANSWER_S`, which one that is stopped does not. Ray's own calls would wait."""
    if not listens(os.environ["RAY_ADDRESS"]):
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
        context = ray.init(address=there, logging_level=logging.ERROR, log_to_driver=False, runtime_env=runtime_environment())
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:300]
        raise PreflightError(
            f"resources.address = {address!r}: no Ray cluster lets us in there ({reason}): start one, give --address local, "
            "or, if it wants a token, set RAY_AUTH_MODE=token and put the token where RAY_AUTH_TOKEN_PATH says",
            field="resources.address",
            value=address,
            allowed="a Ray cluster that this user may join, or local",
        ) from error
    os.environ["RAY_ADDRESS"] = context.address_info["gcs_address"]
    bypass_proxies(context.dashboard_url or "", *(node["NodeManagerAddress"] for node in ray.nodes()))


def _alone() -> dict[str, str]:
    """What keeps a cluster of our own on this machine; what the user has set stays."""
    interface = next((name for _, name in socket.if_nameindex() if name in LOOPBACK_INTERFACES), None)
    wanted = {name: interface for name in BETWEEN_WORKERS if interface} | {"RAY_USAGE_STATS_ENABLED": "0"}  # else Ray reports home
    return {name: os.environ.get(name, value) for name, value in wanted.items()}


def runtime_environment() -> dict[str, Any]:
    """What every worker of a running cluster gets: the environment variables, and this program, which its node may not have.

    Within a submitted job the program travelled with the job already, and Ray refuses what that says as well.
    """
    job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR) or "{}").get("runtime_env") or {}
    theirs = job.get("env_vars") or {}
    # Ray fills in what the node itself has in the variable
    direct = {name: f"{without_proxy()},${{{name}}}" for name in NAMES}
    ours: dict[str, Any] = {"env_vars": {name: value for name, value in (allocator() | direct).items() if name not in theirs}}
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
    except Exception as error:  # a raylet that dies at its start is a bare Exception
        name, folder = ray_folder()
        where = f"its files go to {folder}{f', as {name} says' if name else ''}"
        raise PreflightError(
            f"Ray could not be started on this machine ({' '.join(str(error).split())[:300]}); {where}: see whether that is a "
            "folder that you may write, with space, or set RAY_TMPDIR to one",
            field=name or "RAY_TMPDIR",
            value=folder,
            allowed="a folder that you may write, with space",
        ) from error
