"""Test MLflow's interface on loopback, for local requests only, with a fake server process."""

import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.core.signals import stoppable
from orchestrator.store.store import Store
from orchestrator.tracking import ui


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the options that the server is started with."""
    started: list[list[str]] = []
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "false")

    class Server:
        pid = 2**30  # no such process

        def __init__(self, command: list[str], env: dict[str, str], **_: Any) -> None:
            started.append(command)
            assert env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false", "eight unneeded processes"
            assert env["MLFLOW_DISABLE_TELEMETRY"] == "false", (
                "a variable that the user sets is kept"
            )

        def wait(self, timeout: float | None = None) -> int:
            return 0

    (tmp_path / "mlflow.db").touch()
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", Server)
        patched.setattr(ui, "require_free", lambda port: None)
        assert ui.serve(Store(tmp_path), 5000, Console(quiet=True)) == 0
    ((python, *words),) = started
    assert python == sys.executable and words[:3] == ["-m", "mlflow", "server"]
    return dict(zip(words[3::2], words[4::2], strict=True))


DEAF = (
    "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "os.kill(os.getppid(), signal.SIGINT); signal.pause()"
)


def test_a_server_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def begin(command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        started.append(real([sys.executable, "-c", DEAF], start_new_session=True))
        return started[-1]

    real = subprocess.Popen
    (tmp_path / "mlflow.db").touch()
    monkeypatch.setattr(ui, "require_free", lambda port: None)
    monkeypatch.setattr(ui, "END_S", 0.1)
    # the signal may arrive before the wait for the server
    with monkeypatch.context() as patched, stoppable():
        patched.setattr(subprocess, "Popen", begin)
        with contextlib.suppress(KeyboardInterrupt):
            assert ui.serve(Store(tmp_path), 5000, Console(quiet=True)) == 0
    assert started[0].returncode == -signal.SIGKILL


def test_it_listens_on_loopback_alone(command: dict[str, str]) -> None:
    assert command["--host"] == "127.0.0.1" and command["--port"] == "5000"


@pytest.mark.parametrize(
    "host", ["localhost:5000", "127.0.0.1:5000", "localhost", "127.0.0.1:8080"]
)
def test_this_machine_is_let_in_by_whatever_tunnel(command: dict[str, str], host: str) -> None:
    assert allowed(command, host)


@pytest.mark.parametrize(
    "host",
    ["10.example.org:5000", "192.168.example.org", "localhost.example.org:5000", "example.org", ""],
)
def test_a_page_elsewhere_is_not(command: dict[str, str], host: str) -> None:
    assert not allowed(command, host)


def allowed(command: dict[str, str], host: str) -> bool:
    from mlflow.server.security_utils import is_allowed_host_header

    return bool(is_allowed_host_header(command["--allowed-hosts"].split(","), host))
