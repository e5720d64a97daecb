"""Connect to Ray: start a cluster of our own on loopback, or join a running one.

Several Ray instances may run on one host. The address of ours is exported before anything starts,
so none of its processes has to guess it. Ray Train's placement group cleaner fails if it finds two
instances.
"""

import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray._private import ray_constants, state, worker
from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    maybe_enable_token_auth_if_token_available,
)
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from orchestrator.cluster.own_cluster import OwnCluster, common_environment, take_cluster
from orchestrator.config.resources import ANSWER_S, accepts_connections, find_cluster, ray_folder
from orchestrator.core import project
from orchestrator.core.allocator import allocator
from orchestrator.core.errors import UNFIT_ENVIRONMENT, PreflightError
from orchestrator.core.proxies import NAMES, bypass_proxies, without_proxy
from orchestrator.core.signals import defer_signals, give_up, remaining_timeout

# many times the duration of a shutdown; half of it after the processes were killed
SHUTDOWN_S = 20.0
PACKAGES = [str(project.PACKAGES / name) for name in ("orchestrator", "methods", "search_spaces")]


@contextlib.contextmanager
def connect_to_ray(address: str | None, cpus: int | None = None) -> Iterator[Mapping[str, float]]:
    """Yield Ray's free resources while connected.

    Args:
        address: Address of a running cluster; None uses that of `start_early`, or starts one.
        cpus: CPUs of a cluster of our own; None: all that this process may use.
    """
    previous_environment, previous_cluster_mode = dict(os.environ), ray_constants.ENABLE_RAY_CLUSTER
    cluster = None
    try:
        if address:
            os.environ.update(common_environment())
            _join_cluster(address)
        else:
            cluster = take_cluster(cpus)
            _connect_to_own(cluster)
        # other jobs may hold a part of a running cluster
        yield ray.available_resources() if address else ray.cluster_resources()
    finally:
        _shut_down(cluster)
        ray_constants.ENABLE_RAY_CLUSTER = previous_cluster_mode
        for name in set(os.environ) - set(previous_environment):
            del os.environ[name]
        os.environ.update(previous_environment)


def require_disconnected() -> None:
    """Require that this process is not connected to Ray, whose connection would be ended.

    Raises:
        PreflightError: The process is connected.
    """
    if ray.is_initialized():
        raise PreflightError(
            "Ray is connected in this process, and a sweep starts and ends its own connection: "
            "call ray.shutdown() first"
        ).with_details("ray", "connected", "not connected")


def _shut_down(cluster: OwnCluster | None) -> None:
    """Disconnect from Ray within a time limit.

    `ray.shutdown` waits for an answer without a limit, for example after the head was stopped. A
    Ray of our own that is late is killed. If that does not help, this process exits.
    """
    finished = threading.Event()

    def watch() -> None:
        if not finished.wait(remaining_timeout(SHUTDOWN_S)) and cluster is not None:
            cluster.kill()
        if not finished.wait(SHUTDOWN_S / 2):
            give_up(
                "error: Ray does not shut down: continue with `--resume`, which repeats lost work",
                UNFIT_ENVIRONMENT,
            )

    thread = threading.Thread(target=watch, name="shutdown", daemon=True)
    thread.start()
    try:
        ray.shutdown()
        if cluster is not None:
            cluster.end()
    finally:
        finished.set()
        thread.join()


def list_nodes() -> list[dict[str, float]]:
    """Return the resources of each live node, free or not, under Ray's names.

    Ray is connected.
    """
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def load_token() -> None:
    """Load our token for a running cluster, if there is one.

    Ray's own commands do so; `ray.init` and the job client do not.
    """
    _silence_authentication()
    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _silence_authentication() -> None:
    """Suppress Ray's warning that a token is used."""
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)


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


def is_head_responsive() -> bool:
    """Return whether the head of the cluster responds within `ANSWER_S`.

    A stopped head does not respond. Ray's own calls would wait for it.
    """
    if not accepts_connections(os.environ["RAY_ADDRESS"]):
        return False
    with contextlib.suppress(ray.exceptions.RayError):
        worker.global_worker.gcs_client.internal_kv_get(b"distillation", None, timeout=ANSWER_S)
        return True
    return False


def _join_cluster(address: str) -> None:
    load_token()
    resolved_address = find_cluster(address)
    bypass_proxies(resolved_address)
    try:
        context = ray.init(
            address=resolved_address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env=runtime_environment(),
        )
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:300]
        raise PreflightError(
            f"resources.address = {address!r}: cannot join a Ray cluster there ({reason}): start "
            f"one, use --address local, or, if it requires a token, set RAY_AUTH_MODE=token and "
            "put the token into the file that RAY_AUTH_TOKEN_PATH names"
        ).with_details(
            "resources.address", address, "a Ray cluster that this user may join, or local"
        ) from error
    os.environ["RAY_ADDRESS"] = context.address_info["gcs_address"]
    bypass_proxies(
        context.dashboard_url or "", *(node["NodeManagerAddress"] for node in ray.nodes())
    )


def runtime_environment() -> dict[str, Any]:
    """Return the runtime environment of every worker of a running cluster.

    It holds the environment variables and this program, which a node may lack. A submitted job
    contains the program already, and Ray refuses settings that repeat the job's.
    """
    job = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR) or "{}").get("runtime_env") or {}
    job_variables = job.get("env_vars") or {}
    # Ray expands the variable to the node's own value
    no_proxy_variables = {name: f"{without_proxy()},${{{name}}}" for name in NAMES}
    environment: dict[str, Any] = {
        "env_vars": {
            name: value
            for name, value in (allocator() | no_proxy_variables).items()
            if name not in job_variables
        }
    }
    if not {"working_dir", "py_modules", "excludes"} & set(job):
        environment |= {"py_modules": PACKAGES, "excludes": ["**/__pycache__"]}
    return environment


def _connect_to_own(cluster: OwnCluster) -> None:
    os.environ.update(cluster.environment)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        cluster.wait()
        _silence_authentication()
        enable_token_auth_by_default()  # as the cluster does
        with defer_signals():  # Ray does not shut down if it is half connected
            ray.init(address=cluster.address, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:  # Ray's errors have no common ancestor
        name, folder = ray_folder()
        location = f"its files go to {folder}{f' (set by {name})' if name else ''}"
        raise PreflightError(
            f"Ray could not be started on this machine ({' '.join(str(error).split())[:300]}); "
            f"{location}: check that this "
            "folder is writable and has free space, or set RAY_TMPDIR to one that is"
        ).with_details(name or "RAY_TMPDIR", folder, "a writable folder with free space") from error
