"""Start a Ray head on loopback with free ports and its own token, and call the command line on it.

Everything runs in child processes: a process reads its token once, and this one may have another
token.
"""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
PYTHON = Path(sys.executable)
STARTS_S = 90.0
# Ray binds to loopback only if clusters are disabled
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Head:
    """Address of the job server, and the environment for its clients."""

    address: str
    environment: dict[str, str]

    def call(self, *arguments: str, cwd: Path, token: str | None = None) -> tuple[int, str]:
        """Return exit code and output of the command line, called in a folder."""
        environment = self.environment | ({"RAY_AUTH_TOKEN": token} if token is not None else {})
        command = [sys.executable, str(ROOT / "run.py"), *arguments]
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout


@contextlib.contextmanager
def head(cpus: int = 2) -> Iterator[Head]:
    """Run a head in the block, and remove everything of it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="head"))  # short, because it holds sockets
    gcs, dashboard, agent, client = _free_ports(4)
    token = secrets.token_hex(32)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= LOOPBACK | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "COLUMNS": "200"}
    environment["PATH"] = f"{PYTHON.parent}{os.pathsep}{environment['PATH']}"
    command = [
        str(PYTHON.parent / "ray"),
        "start",
        "--head",
        "--block",
        "--node-ip-address=127.0.0.1",
        "--disable-usage-stats",
    ]
    command += [
        f"--port={gcs}",
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}",
    ]
    command += [
        f"--ray-client-server-port={client}",
        "--dashboard-host=127.0.0.1",
        "--min-worker-port=0",
        "--max-worker-port=0",
    ]
    command += [f"--temp-dir={folder}", f"--num-cpus={cpus}", "--object-store-memory=100000000"]
    with open(folder / "output", "w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_for(dashboard, process, folder / "output")
        yield Head(f"127.0.0.1:{dashboard}", environment)
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_for(port: int, process: subprocess.Popen[bytes], output: Path) -> None:
    until = time.monotonic() + STARTS_S
    while time.monotonic() < until and process.poll() is None:
        if "Ray runtime started" in output.read_text():
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=1),
            ):
                return
        time.sleep(0.2)
    raise AssertionError(f"the head did not start: {output.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all its descendants by their ids."""
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        for each in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(started, timeout=10)
    if process.poll() is None:
        process.kill()
    process.wait()
