"""Test the resume of a finished sweep with unsent MLflow data: it sends them and starts nothing."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.loader import load
from orchestrator.data.prepare import prepare
from orchestrator.reporting.html import _summary as summary
from orchestrator.reporting.html._summary import Commands
from orchestrator.reporting.html._sweep_view import SweepView
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep import driver as module
from orchestrator.sweep.driver import is_finished, run_sweep
from orchestrator.sweep.events import Events
from orchestrator.tracking import _sender as sending
from orchestrator.tracking import _writer as writing
from orchestrator.tracking._client import connect
from orchestrator.tracking.tracker import Tracker
from tests.sweep_runs import Watch


def test_a_resume_of_a_finished_sweep_sends_what_is_unsent(
    tracked_store: Store, digits_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = load(None, ["project=tests", "search.trials=1", "data.name=digits"])
    data = prepare(configuration.data, digits_store, 0)
    sweep = Sweep.create(tracked_store.sweep("mine"), configuration, "sweep")
    trial = Trial(0, {"temperature": 2.0}, state="running")
    monkeypatch.setattr(sending, "RETRY_S", 0.0)
    monkeypatch.setattr(writing, "STALL_S", 0.0)

    def away(uri: str) -> Any:
        raise ConnectionError("down")

    monkeypatch.setattr(sending, "connect", away)
    tracker, watch = Tracker(tracked_store, sweep), Watch()
    events = Events(sweep, [watch])
    tracker.listen(events.note, events.note_pending, events.clear_pending_notes)
    events.note("a node was lost")
    tracker.trial_started(trial)
    tracker.trial_reported(trial, 1, {"validation/accuracy": 0.1})
    trial.state, trial.value = "complete", 0.1
    sweep.save_trial(trial)
    assert not is_finished(sweep), "it runs"
    sweep.state = "finished"
    tracker.trial_ended(trial)
    unsent = tracker.close("finished")
    assert unsent > 5 and f"{unsent} writes to MLflow were not sent" in watch.notes[-1]
    assert f"`python run.py sweep --resume mine --store {tracked_store.root}`" in watch.notes[-1]
    noted = [note["text"] for note in Sweep.open(tracked_store, "mine").status()["notes"]]
    assert noted == watch.notes and len(noted) > 2, "the record shows the unsent writes meanwhile"
    assert is_finished(sweep)

    monkeypatch.setattr(sending, "connect", connect)
    monkeypatch.setattr(
        module, "open_own_groups", lambda *arguments: pytest.fail("nothing is to be trained")
    )
    show = Watch()
    sweep.state = "failed"  # as after a death of Ray and the driver at the end of the last trial
    run_sweep(sweep, tracked_store, data, None, show, resume=True)
    assert show.notes == [] and sweep.state == "finished"
    left = Sweep.open(tracked_store, "mine")
    assert [note["text"] for note in left.status()["notes"]] == ["a node was lost"], (
        "nothing is unsent any more"
    )
    warnings = summary.warnings_of(SweepView.of(left), Commands("", "", "", "", ""))
    assert not any("MLflow" in text for text in warnings) and "a node was lost" in warnings
    client = connect(f"sqlite:///{tracked_store.database}")
    experiment = client.get_experiment_by_name("tests")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == {
        "mine": "FINISHED",
        "mine/000 kd": "FINISHED",
    }
    assert runs["mine/000 kd"].data.metrics == {"validation/accuracy": 0.1}
    sweep.configuration = load(None, ["search.trials=2"])
    assert not is_finished(sweep), "there is another trial to train"
