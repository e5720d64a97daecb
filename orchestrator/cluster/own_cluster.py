"""Start the processes of a Ray cluster of our own on loopback, in the background."""

import logging
import socket
import threading
from typing import Any

from ray._private.authentication.authentication_token_setup import (
    enable_token_auth_by_default,
    ensure_token_if_auth_enabled,
)
from ray._private.node import Node
from ray._private.parameter import RayParams

from orchestrator.core.signals import remaining_timeout

LOOPBACK = "127.0.0.1"
END_S = 2.0  # many times the duration of an end; a start in progress ends in the background


class _Head(Node):  # type: ignore[misc]  # Ray's internal modules have no types
    """Head without the dashboard process, for which `ray.init` would wait a second."""

    def start_api_server(self, **options: Any) -> None:
        """Start nothing: without a dashboard, Ray's process only reports usage statistics."""


class OwnCluster:
    """Processes of a Ray cluster of our own.

    The autoscaler and the log monitor, which nobody uses here, are not started either. A thread
    starts the processes and lives as long as they do: the kernel ends them with this thread, and
    so with this process.

    Attributes:
        address: The host:port of the cluster.
    """

    def __init__(self, cpus: int) -> None:
        """Begin to start the processes."""
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = probe.getsockname()[1]
        self.address = f"{LOOPBACK}:{port}"
        logging.getLogger("ray").setLevel(logging.ERROR)
        enable_token_auth_by_default()
        ensure_token_if_auth_enabled({}, create_token_if_missing=True)
        self._parameters = RayParams(
            node_ip_address=LOOPBACK,
            gcs_server_port=port,
            num_cpus=cpus,
            include_dashboard=False,
            include_log_monitor=False,
            no_monitor=True,
            env_vars={"RAY_ADDRESS": self.address},
        )
        self._node: _Head | None = None
        self._error: BaseException | None = None
        self._started, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, name="ray", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the cluster runs; raise the error of its start."""
        self._started.wait()
        if self._error is not None:
            raise self._error

    def kill(self) -> None:
        """Kill the processes of a cluster that does not shut down."""
        if self._node is not None:
            self._node.kill_all_processes(check_alive=False, allow_graceful=False)

    def end(self) -> None:
        """End the processes."""
        self._ended.set()
        self._thread.join(remaining_timeout(END_S))

    def _hold(self) -> None:
        """Start the processes, and end them after `end`."""
        try:
            self._node = _Head(
                self._parameters,
                head=True,
                shutdown_at_exit=False,
                spawn_reaper=True,
                ray_init_cluster=True,
            )
        except BaseException as error:  # Ray raises a bare Exception, or exits
            self._error = error
            return
        finally:
            self._started.set()
        self._ended.wait()
        self._node.kill_all_processes(check_alive=False, allow_graceful=True)
