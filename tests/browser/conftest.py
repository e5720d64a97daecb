"""A real small sweep, MLflow's interface on it, and a browser that looks: once for all tests of pages."""

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

import pytest

from tests.browser.chromium import Chromium, chromium

ROOT = Path(__file__).parents[2]
NAME = "shown"
SETTINGS = (
    "search.methods=[cross_entropy, akd]", "search.trials=4", "training.epochs=4", "search.grace_epochs=2",
    "teacher.training.epochs=3", "project=pages",
)  # fmt: skip
AGAIN_S = 0.2  # between two questions to who has not begun to answer
LONGEST_S = 280.0  # of a process: many times what it takes on a machine that nobody else uses


class Interface(NamedTuple):
    """MLflow's: the address of the experiment, and the ids of the runs by their keys (`parent`, `0`)."""

    server: str
    experiment: str
    runs: dict[str, str]


def command(*words: str, store: Path) -> list[str]:
    """A command line of the program on the store."""
    return [sys.executable, "run.py", *words, "--store", str(store)]


@pytest.fixture(scope="session")
def browser() -> Iterator[Chromium]:
    if not chromium():
        pytest.skip("there is no Chromium on this machine: install the package `chromium`")
    with Chromium() as begun:
        yield begun


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what was seen is kept; `--basetemp` says where that is."""
    return tmp_path_factory.mktemp("pictures", numbered=False)


@pytest.fixture(scope="session")
def swept(browser: Chromium, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a finished sweep."""
    store = tmp_path_factory.mktemp("swept") / "store"
    words = [word for pair in SETTINGS for word in ("--set", pair)]
    done = subprocess.run(
        command("sweep", "--name", NAME, *words, store=store), cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return store


@pytest.fixture(scope="session")
def reported(swept: Path) -> Path:
    """The report of the sweep, which MLflow has too."""
    done = subprocess.run(command("report", NAME, store=swept), cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_S)
    assert done.returncode == 0 and "logged to the run" in done.stdout, done.stdout + done.stderr
    return swept / "reports" / f"{NAME}.html"


@pytest.fixture(scope="session")
def interface(swept: Path) -> Iterator[Interface]:
    """`run.py ui` on the store, at a port that was free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = f"http://127.0.0.1:{port}"
    runs = json.loads((swept / "sweeps" / NAME / "mlflow.json").read_text())
    with subprocess.Popen(
        command("ui", "--port", str(port), store=swept), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            answered(f"{server}/health", process)
            asked = f"{server}/ajax-api/2.0/mlflow/runs/get?run_id={runs['parent']}"
            experiment = json.loads(answered(asked, process))["run"]["info"]["experiment_id"]
            yield Interface(server, f"{server}/#/experiments/{experiment}", runs)
        finally:
            os.kill(process.pid, signal.SIGTERM)
            process.wait(LONGEST_S)


def answered(address: str, process: "subprocess.Popen[bytes]") -> bytes:
    """What is at the address, as soon as somebody answers there."""
    deadline = time.monotonic() + LONGEST_S
    while True:
        assert process.poll() is None and time.monotonic() < deadline, f"nobody answers at {address}"
        try:
            with urllib.request.urlopen(address, timeout=LONGEST_S) as answer:
                return bytes(answer.read())
        except (urllib.error.URLError, ConnectionError):
            select.select([], [], [], AGAIN_S)
