"""Stop a submitted sweep: it ends in order, and a job that resumes it completes it."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.running_head import head

# sequential: after the first one, the others take longer than the start of a command
TRIALS, EPOCHS = 4, 300
SETTINGS = [
    "search.methods=[]",
    "method.name=kd",
    "search.scheduler=none",
    "teacher.training.epochs=2",
    "resources.groups=1",
]
DEADLINE_S = 180.0


def states(store: Path) -> list[dict[str, Any]]:
    """Return the trials' records, by their numbers."""
    files = sorted(
        (store / "sweeps/mine/trials").glob("*/trial.json"), key=lambda file: int(file.parent.name)
    )
    return [json.loads(file.read_text()) for file in files]


@pytest.mark.faults
def test_stopped_job_is_resumed_by_another_job(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with head() as cluster:
        address = ["--address", cluster.address]
        command = ["sweep", "--store", str(store), "--name", "mine", "--trials", str(TRIALS)]
        command += [
            part for pair in (*SETTINGS, f"training.epochs={EPOCHS}") for part in ("--set", pair)
        ]
        code, output = cluster.call(
            "submit", *address, "--detach", "--name", "first", "--", *command, cwd=tmp_path
        )
        assert (
            code == 0 and f"python run.py stop first --address http://{cluster.address}" in output
        )
        wait_for = time.monotonic() + DEADLINE_S
        while not any(trial["state"] == "complete" for trial in states(store)):
            assert time.monotonic() < wait_for, cluster.call(
                "status", "first", *address, cwd=tmp_path
            )[1]
            time.sleep(0.2)
        code, output = cluster.call("stop", "first", *address, cwd=tmp_path)
        assert code == 0 and output.startswith("first: stopped"), output
        resume = f"submit --address http://{cluster.address} -- sweep --resume mine --store {store}"
        assert f"resume: python run.py {resume}" in output
        assert json.loads((store / "sweeps/mine/sweep.json").read_text())["state"] == "interrupted"
        before = {trial["number"]: trial for trial in states(store)}
        assert (
            any(trial["state"] != "complete" for trial in before.values()) or len(before) < TRIALS
        )
        code, output = cluster.call(*resume.split(), cwd=tmp_path)
        assert code == 0, output
        code, output = cluster.call("status", "first", *address, cwd=tmp_path)
        assert (
            code == 0
            and "interrupted after" in output
            and "resume: python run.py sweep --resume mine" in output
        )
    after = states(store)
    assert [trial["number"] for trial in after] == list(range(TRIALS))
    assert all((trial["state"], trial["epochs"]) == ("complete", EPOCHS) for trial in after)
    for trial in after:
        old = before.get(trial["number"], {"state": "waiting"})
        assert old["state"] != "complete" or trial == old
