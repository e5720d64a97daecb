"""Hold the processes of a Ray cluster of our own: the program that `OwnCluster` starts.

A process of its own can be killed at any moment, which a thread that starts Ray cannot.
"""

import signal
import sys
from typing import Any

from orchestrator.cluster.own_cluster import READY


def main(host: str, port: int, cpus: int) -> None:
    """Start a head, and end it when the standard input is closed.

    If the head does not start, print the reason.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # Ctrl-C is for the driver
    try:
        head = _start_head(host, port, cpus)
    except Exception as error:  # Ray raises a bare Exception if a raylet dies at its start
        print(" ".join(str(error).split()), flush=True)
        return
    print(READY, flush=True)
    sys.stdin.read()
    head.kill_all_processes(check_alive=False, allow_graceful=True)


def _start_head(host: str, port: int, cpus: int) -> Any:
    """Start a head without the processes that a cluster of one node does not need.

    These are the autoscaler, the log monitor and the dashboard.
    """
    from ray._private.authentication.authentication_token_setup import (
        enable_token_auth_by_default,
        ensure_token_if_auth_enabled,
    )
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    class Head(Node):  # type: ignore[misc]  # Ray's internal modules have no types
        """Head without the process of the dashboard, for which `ray.init` waits a second."""

        def start_api_server(self, **options: Any) -> None:
            """Start nothing: without a dashboard, Ray's process only reports usage statistics."""

    enable_token_auth_by_default()
    ensure_token_if_auth_enabled({}, create_token_if_missing=True)
    parameters = RayParams(
        node_ip_address=host,
        gcs_server_port=port,
        num_cpus=cpus,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
    )
    return Head(
        parameters, head=True, shutdown_at_exit=False, spawn_reaper=True, ray_init_cluster=True
    )
