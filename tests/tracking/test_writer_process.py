"""Test the process that writes to MLflow: equal content, its death and that of the driver."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.numpy import save_file

from orchestrator.cluster.descendants import Descendants
from orchestrator.config.loader import load
from orchestrator.reporting.figures.trial import TRACE
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.tracking import _writer as writing
from orchestrator.tracking import model_registry
from orchestrator.tracking._client import connect
from orchestrator.tracking._runs import RUN_IDS
from orchestrator.tracking._values import tracking_uri
from orchestrator.tracking._writer import WriterProcess
from orchestrator.tracking.tracker import Tracker
from tests.checkpointed import start_sweep, with_student
from tests.tracking.test_figures import traced

ROOT = Path(__file__).parents[2]
# keys of runs and tags that differ from store to store
OWN = ("mlflow.parentRunId", "sweep.id", "best.run")
DRIVER = """
import sys
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.tracking.tracker import Tracker

store = Store.open(sys.argv[1])
tracker = Tracker(store, Sweep.open(store, "mine"))
trial = Trial(0, {"temperature": 2.0}, state="running")
tracker.trial_started(trial)
for epoch in range(1, 4):
    tracker.trial_reported(trial, epoch, {"validation/accuracy": epoch / 10})
while tracker.writer.process is None:
    pass
print(tracker.writer.process.process.pid, flush=True)
tracker.writer.thread.join()
"""


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait for another process, three minutes at most, and return the true value."""
    turn = threading.Event()
    for _ in range(18000):
        if value := condition():
            return value
        turn.wait(0.01)
    raise AssertionError("it did not come to pass")


def contents(store: Store, sweep: Sweep) -> dict[str, Any]:
    """Return what MLflow has of each run, without ids, times and the load of the machine."""
    client = connect(tracking_uri(store, sweep.configuration))
    found: dict[str, Any] = {}
    for key, run_id in RUN_IDS.read(sweep.folder / "mlflow.json").items():
        run = client.get_run(run_id)
        metrics = {
            name: [(point.step, point.value) for point in client.get_metric_history(run_id, name)]
            for name in run.data.metrics
            if not name.startswith("system/")
        }
        tags = {name: value for name, value in run.data.tags.items() if name not in OWN}
        tags = {name: value.replace(run_id, "ID") for name, value in tags.items()}
        files = [file.path for file in client.list_artifacts(run_id)]
        files += [file.path for file in client.list_artifacts(run_id, "figures")]
        found[key] = {
            "name": run.info.run_name,
            "status": run.info.status,
            "params": run.data.params,
            "metrics": metrics,
            "tags": {name: value.replace(str(store.root), "ROOT") for name, value in tags.items()},
            "files": sorted(files),
            "datasets": [each.dataset.digest for each in run.inputs.dataset_inputs],
        }
    versions = client.search_model_versions("name = 'tests-mine'")
    found["models"] = [(str(each.version), each.tags["trial"]) for each in versions]
    best = client.get_model_version_by_alias("tests-mine", "best") if versions else None
    found["best"] = str(best.version) if best else None
    return found


def track_two_trials(store: Store, during: Callable[[Tracker], None]) -> Sweep:
    """Log a sweep with figures and a model, as a driver does; `during` is called in between."""
    sweep = start_sweep(store, "tracking.figures=all")
    tracker = Tracker(store, sweep, [str(digit) for digit in range(10)])
    for number in range(2):
        trial = with_student(sweep, number, 0.5 + number / 10)
        save_file(traced(), sweep.trial_folder(number) / "checkpoint" / TRACE)
        tracker.trial_started(trial)
        tracker.trial_reported(trial, trial.epochs, trial.metrics)
        if not number:
            during(tracker)
        tracker.trial_ended(trial)
    assert tracker.close("finished") == 0
    return sweep


def disturb(tracker: Tracker) -> None:
    """Send the process the signals of Ctrl-C and of a shutdown, then kill it and wait for the next.

    The end of a run with Ray must not end it.
    """
    process = wait_for(lambda: tracker.writer.process)
    assert isinstance(process, WriterProcess)
    wait_for(lambda: tracker.writer.writes.mark > 100)  # it has set its signal handlers
    child = psutil.Process(process.process.pid)
    for number in (signal.SIGINT, signal.SIGTERM):
        child.send_signal(number)
    wait_for(lambda: not tracker.writer.writes.unsent)
    assert child.is_running() and child not in Descendants().refresh()
    child.kill()
    wait_for(lambda: tracker.writer.process not in (None, process))


@pytest.mark.parametrize("thorough", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_process_writes_what_a_thread_writes(
    thorough: bool,
    tracked_store: Store,
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The thorough variant registers a model, and kills the process."""
    monkeypatch.setattr(model_registry, "KINDS", ("sweep",) if thorough else ())
    expected = contents(tracked_store, track_two_trials(tracked_store, lambda tracker: None))
    assert expected["models"] == ([("1", "1")] if thorough else [])
    assert "figures/terms.png" in expected["1"]["files"]
    monkeypatch.setattr(writing, "start_process", WriterProcess)
    monkeypatch.setattr(writing, "RESTART_S", 0.0)
    other = Store.open(tmp_path / "other")
    shutil.copy(empty_database, other.database)
    during = disturb if thorough else lambda tracker: None
    assert contents(other, track_two_trials(other, during)) == expected


def test_the_process_ends_with_its_driver_and_a_resume_continues(
    tracked_store: Store, tmp_path: Path
) -> None:
    sweep = Sweep.create(tracked_store.sweep("mine"), load(None, ["project=tests"]), "sweep")
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tracked_store.root)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with driver:
        assert driver.stdout is not None
        child = psutil.Process(int(driver.stdout.readline()))
        driver.kill()
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
    tracker = Tracker(tracked_store, sweep)
    assert tracker.writer.unsent > 0
    trial = Trial(0, {"temperature": 2.0}, state="running")
    tracker.trial_started(trial)
    for epoch in range(3, 6):  # the record lacked epoch 3
        tracker.trial_reported(trial, epoch, {"validation/accuracy": epoch / 10})
    assert tracker.close("interrupted", timeout=60) == 0
    run = contents(tracked_store, sweep)["0"]
    assert run["metrics"]["validation/accuracy"] == [(epoch, epoch / 10) for epoch in range(1, 6)]
