"""Run commands that start Ray themselves: an interrupted sweep and its resume, and the doctor."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import run
from orchestrator.cli import _checks as doctor
from orchestrator.cli._checks import CHECKS
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from tests.seen import open_to_others, sockets

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("own_ray")]
ROOT = Path(__file__).parents[2]
OK, BAD_CONFIGURATION = 0, 2
EPOCHS = 15  # a trial still runs when the signal arrives


def call(*arguments: str) -> tuple[int, str]:
    """Return exit code and everything printed."""
    result = CliRunner().invoke(run.app, list(arguments))
    return result.exit_code, result.output


def list_libraries(process: psutil.Process) -> set[str]:
    """Return the names of the files that a process maps; empty where this is not known."""
    if not hasattr(process, "memory_maps"):  # macOS
        return set()
    return {Path(mapping.path).name for mapping in process.memory_maps()}


def test_interrupted_sweep_is_resumed(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    settings = [
        "method.name=kd",
        "search.methods=[]",
        f"training.epochs={EPOCHS}",
        "search.scheduler=none",
        "teacher.training.epochs=2",
        "resources.groups=1",  # trials 1 and 2 are unfinished when trial 0 ends
    ]
    command = [
        sys.executable,
        "run.py",
        "sweep",
        "--store",
        store,
        "--name",
        "mine",
        "--trials",
        "3",
    ]
    command += [part for pair in settings for part in ("--set", pair)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "200"}
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("trial 0 complete"):
                driver = psutil.Process(process.pid)
                listening, libraries = sockets(driver), list_libraries(driver)
                process.send_signal(signal.SIGTERM)
                break
        remaining = process.stdout.read()
    assert process.returncode == 130, remaining
    assert "libtorch.so" not in libraries, "the driver of a sweep needs no torch"
    assert len(listening) > 3 and all(listening.values()), (
        "a local cluster must listen on the loopback address only"
    )
    assert not open_to_others(tmp_path / "store"), (
        "files of Ray and its workers must be private too"
    )
    assert f"resume: python run.py sweep --resume mine --store {store}" in remaining
    code, output = call("status", "mine", "--store", store, "--json")
    before = json.loads(output)
    assert code == OK and before["state"] == "interrupted"
    assert Counter(trial["state"] for trial in before["trials"])["complete"] < 3
    code, output = call("sweep", "--resume", "mine", "--store", store)
    assert code == OK, output
    after = json.loads(call("status", "mine", "--store", store, "--json")[1])
    assert [trial["number"] for trial in after["trials"]] == [0, 1, 2]
    assert all(
        (trial["state"], trial["epochs"]) == ("complete", EPOCHS) for trial in after["trials"]
    )
    histories = [trial.history for trial in Sweep.open(Store(Path(store)), "mine").trials.values()]
    assert all(len(history) == EPOCHS and None not in history for history in histories), (
        "no epoch may be missing"
    )
    for previous in before["trials"]:  # finished and started trials stay the same
        resumed = after["trials"][previous["number"]]
        assert resumed["params"] == previous["params"] and (
            previous["state"] != "complete" or resumed == previous
        )
    code, output = call("sweep", "--resume", "mine", "--store", store, "--trials", "2")
    assert code == BAD_CONFIGURATION and "less than the 3 trials" in output


# test_doctor.py tests each check without Ray, test_smoke_test.py the failures of the two workers,
# and test_killed_pair.py two workers that train together
@pytest.mark.slow
def test_two_workers_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TWO_WORKERS_TIMEOUT_S", 250.0)  # on a busy machine
    code, output = call("doctor", "--store", str(tmp_path / "store"))
    assert code == OK, output
    assert [line.split("  ")[0] for line in output.splitlines()] == list(CHECKS)
    assert "two workers  ok    two workers summed a tensor" in output
    assert list(tmp_path.iterdir()) == [], "doctor must leave no files"
