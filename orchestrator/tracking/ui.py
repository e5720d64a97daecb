"""Run MLflow's own user interface on a store, on the loopback address only."""

import contextlib
import os
import signal
import socket
import subprocess
import sys

from rich.console import Console

from orchestrator.config.uris import WEB, database_uri, scheme_of
from orchestrator.core.errors import OK, ConfigurationError, PreflightError
from orchestrator.core.program import program_name
from orchestrator.core.signals import before_exit, remaining_timeout, stoppable
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.store import run_lock
from orchestrator.store.store import Store
from orchestrator.tracking._relocation import relocate_artifacts
from orchestrator.tracking.health import other_tracking_addresses
from orchestrator.tracking.overrides import server_environment
from orchestrator.tracking.schema import require_schema

LOOPBACK = "127.0.0.1"
END_S = 10.0  # grace period for the server before it is killed
# MLflow's default allows names such as 10.example.org. A page there could read the runs by
# rebinding its name to loopback.
ALLOWED_HOSTS = "localhost,localhost:*,127.0.0.1,127.0.0.1:*"


def serve(store: Store, port: int, console: Console) -> int:
    """Run the server until it is interrupted.

    Runs that a sweep wrote to another server are not shown. Their address is printed.

    Args:
        store: The store whose runs are shown.
        port: The port on the loopback address.
        console: The console for notes.

    Returns:
        The exit status.

    Raises:
        ConfigurationError: The store holds no runs.
        PreflightError: The port is taken, or MLflow cannot use the database.
    """
    for uri in other_tracking_addresses(store):
        if scheme_of(uri) in WEB:
            step = "open it in a browser"
        else:
            step = "run `mlflow server --backend-store-uri` with that address to see them"
        print_line(console, f"sweeps of this store were written to {uri}: {step}")
    if not store.database.exists():
        if other_tracking_addresses(store):
            return OK
        raise ConfigurationError(
            f"--store {store.root} holds no runs yet: start one with "
            f"`{program_name()} sweep{store.option}`"
        ).with_details("--store", str(store.root), "a store with runs")
    require_schema(store.database)
    require_free(port)
    _relocate(store, console)
    environment, left_out = server_environment()
    if left_out:
        unused = (
            f"ignored, because this command shows the store's own runs: {', '.join(left_out)} in "
            f"the environment"
        )
        print_line(console, unused)
    console.print(f"MLflow on http://{LOOPBACK}:{port} (press Ctrl-C to stop)", highlight=False)
    backend = [
        "--backend-store-uri",
        database_uri(store.database),
        "--default-artifact-root",
        store.artifacts.as_uri(),
    ]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        LOOPBACK,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--allowed-hosts", ALLOWED_HOSTS, *backend]
    # Job execution would start eight processes, for LLM judges
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, start_new_session=True, env=quiet | environment)
    with before_exit(lambda: _signal(server, signal.SIGKILL)):
        try:
            with stoppable():
                return server.wait()
        except KeyboardInterrupt:
            return OK
        finally:
            _end(server)


def _signal(server: "subprocess.Popen[bytes]", number: int) -> None:
    """Send a signal to the server and its child processes, which share a session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, number)


def _end(server: "subprocess.Popen[bytes]") -> None:
    """Terminate the server. Kill it if it does not exit within `END_S`."""
    _signal(server, signal.SIGTERM)
    try:
        server.wait(remaining_timeout(END_S))
    except subprocess.TimeoutExpired:
        _signal(server, signal.SIGKILL)
        server.wait()


def _relocate(store: Store, console: Console) -> None:
    """Point the runs of a moved store to its artifacts.

    Do nothing while a sweep writes to them, perhaps under another path.
    """
    if not any(run_lock.is_running(store.sweep(name)) for name in store.sweeps()):
        for before in relocate_artifacts(store.database, store.artifacts):
            moved = (
                f"the store was moved from {before}: its artifacts in MLflow now point to "
                f"{store.artifacts}"
            )
            print_line(console, moved)


def require_free(port: int) -> None:
    """Check that no process listens on a port of the loopback address.

    Raise PreflightError if one does.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise PreflightError(
                f"--port {port} is in use on {LOOPBACK} ({error.strerror}): choose another port"
            ).with_details("--port", port, "a free port") from error
