"""Start and stop MLflow's server on loopback."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

START_S = 240.0


class Server:
    """MLflow's server with a database in a folder, which outlives the server."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = port or probe.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def database(self) -> Path:
        """Return the SQLite file."""
        return self.folder / "mlflow.db"

    def begin(self) -> None:
        """Start the server unless it runs; it answers after some seconds."""
        if self.process and self.process.poll() is None:
            return
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]
        command += ["--backend-store-uri", f"sqlite:///{self.database}", "--serve-artifacts"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = os.environ | {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        with open(self.folder / "printed", "ab") as printed:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=printed,
                stderr=printed,
                start_new_session=True,
                env=environment,
            )

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self.begin()
        end = time.monotonic() + START_S
        while not self.answers():
            assert self.process is not None
            assert self.process.poll() is None and time.monotonic() < end, (
                self.folder / "printed"
            ).read_text()
            time.sleep(0.1)

    def answers(self) -> bool:
        """Return whether the server answers now."""
        try:
            with urlopen(f"{self.uri}/health", timeout=1) as answer:  # loopback
                return bool(answer.status == 200)
        except OSError:
            return False

    def signal(self, number: int) -> None:
        """Send a signal to the server and its workers, which form one session."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def stop(self) -> None:
        """Kill the server and its workers with SIGKILL."""
        self.signal(signal.SIGKILL)
        if self.process:
            self.process.wait()
