"""Run commands of the program on a store, and serve MLflow's interface on it."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
AGAIN_S = 0.2  # between two requests to a server that has not started yet
LONGEST_S = 280.0  # of a process: many times its duration on an idle machine


class Interface(NamedTuple):
    """MLflow's address, that of the experiment, and the run ids by key (`parent`, `0`)."""

    server: str
    experiment: str
    runs: dict[str, str]


def command(*words: str, store: Path) -> list[str]:
    """Return a command line of the program, to be run in the folder that holds the store."""
    return [sys.executable, str(ROOT / "run.py"), *words, "--store", store.name]


def ran(*words: str, store: Path) -> str:
    """Run a command, and return its output.

    Raises:
        AssertionError: The command fails.
    """
    store.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command(*words, store=store),
        cwd=store.parent,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def serving(store: Path, name: str) -> Iterator[Interface]:
    """Serve `run.py ui` on the store at a free port; the experiment is that of the sweep `name`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = f"http://127.0.0.1:{port}"
    runs = json.loads((store / "sweeps" / name / "mlflow.json").read_text())
    words = command("ui", "--port", str(port), store=store)
    with subprocess.Popen(
        words, cwd=store.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            url = f"{server}/ajax-api/2.0/mlflow/runs/get?run_id={runs['parent']}"
            experiment = json.loads(_fetch(url, process))["run"]["info"]["experiment_id"]
            yield Interface(server, f"{server}/#/experiments/{experiment}", runs)
        finally:
            os.kill(process.pid, signal.SIGTERM)
            process.wait(LONGEST_S)


def _fetch(address: str, process: "subprocess.Popen[bytes]") -> bytes:
    """Return the content at the address as soon as the server answers."""
    deadline = time.monotonic() + LONGEST_S
    while True:
        assert process.poll() is None and time.monotonic() < deadline, (
            f"no server answers at {address}"
        )
        try:
            with urllib.request.urlopen(address, timeout=LONGEST_S) as answer:
                return bytes(answer.read())
        except (urllib.error.URLError, ConnectionError):
            select.select([], [], [], AGAIN_S)
