"""An MLflow server that is gone for ten seconds of a sweep: trials go on, and every point arrives, once."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from orchestrator.records import Sweep
from tests.faults.broken import begun, check_runs, check_study, compare, epochs, record, resumed
from tests.faults.conftest import WHOLE, Tell

pytestmark = pytest.mark.faults
AWAY_S = 10.0
START_S = 120.0


class Server:
    """MLflow's server on loopback, with a database in a folder; it may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}", "--serve-artifacts"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        with open(self.folder / "printed", "ab") as printed:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=printed, stderr=printed, start_new_session=True)
        end = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < end, (self.folder / "printed").read_text()
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.uri}/health", timeout=1) as answer:  # loopback
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        """SIGKILL for it and its workers, which is a session of its own."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "mlflow")
    made.start()
    yield made
    made.stop()


def passed(seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


def test_a_server_is_gone_for_ten_seconds(server: Server, whole: Sweep, tmp_path: Path, tell: Tell) -> None:
    store = tmp_path / "store"
    with begun(store, *WHOLE, f"tracking.uri={server.uri}") as life:
        life.until(lambda: epochs(store) >= 2, "epoch 2")
        server.stop()
        before, away = epochs(store), passed(AWAY_S)
        life.until(lambda: epochs(store) > before, "epoch without a server")
        life.until(away, "ten seconds")
        server.start()
        assert life.ended() == 0, life.said
    if "sent with the next `sweep --resume" in life.said:  # the server needed longer to start than the sweep to end
        with resumed(store) as again:
            assert again.ended() == 0, again.said
    found = record(store)
    compare(found, whole)
    assert found is not None
    check_study(found)
    points = check_runs(found, server.uri)
    tell(f"the MLflow server killed, and started again {AWAY_S:g} s later", "once", len(whole.trials), f"none of {points} points")
