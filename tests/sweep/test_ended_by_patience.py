"""Test the state of trials that `training.patience` ends: study, records and display."""

import io
from pathlib import Path

import pytest
from optuna.trial import TrialState
from rich.console import Console

from orchestrator.config.loader import load
from orchestrator.core.reports import EpochRecord
from orchestrator.reporting.terminal.progress import Display
from orchestrator.store.records import Sweep
from orchestrator.sweep._tune_messages import to_result
from orchestrator.sweep._tune_search import StudySearch
from orchestrator.sweep.preflight.configuration import check_search
from tests.refusal import refused
from tests.sweep.studies import begin, resumed

OBJECTIVE = "validation/accuracy"


def ended(epoch: int, value: float, stopped: bool) -> dict[str, object]:
    """Return Tune's result of an epoch; the scheduler or `training.patience` ended the trial."""
    metrics = {OBJECTIVE: value} | ({"stopped_epoch": float(epoch)} if stopped else {})
    result = to_result((EpochRecord(epoch, metrics, done=stopped),), OBJECTIVE)
    return result | {"done": True}  # Tune sets it for a trial that its scheduler stops, too


def both(folder: Path) -> tuple[Sweep, StudySearch]:
    sweep, searcher = begin(folder, "training.epochs=9", "training.patience=2")
    for name, stopped in (("a", True), ("b", False)):
        searcher.suggest(name)
        searcher.on_trial_complete(name, ended(4, 0.5, stopped))
    return sweep, searcher


def test_a_trial_that_patience_ends_is_complete(tmp_path: Path) -> None:
    sweep, searcher = both(tmp_path)
    states = [trial.state for trial in sweep.trials.values()]
    assert states == ["complete", "stopped_early"]
    assert [trial.state for trial in searcher.study.trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
    ]
    assert sweep.best() is sweep.trials[0]
    again, _ = resumed(sweep)
    assert [trial.state for trial in again.trials.values()] == states
    assert again.trials[0].metrics["stopped_epoch"] == 4


def test_the_driver_may_die_between_the_last_record_and_the_end(tmp_path: Path) -> None:
    sweep, searcher = begin(tmp_path, "training.epochs=9", "training.patience=2")
    searcher.suggest("a")
    searcher.on_trial_result("a", ended(4, 0.5, True))
    again, searcher = resumed(sweep)
    assert again.trials[0].state not in ("complete", "stopped_early")
    searcher.suggest("x")
    searcher.on_trial_complete("x", ended(4, 0.5, True))  # the worker sends its last record again
    assert again.trials[0].state == "complete" and again.trials[0].epochs == 4


def test_the_display_gives_the_epochs_of_all(tmp_path: Path) -> None:
    sweep, _ = both(tmp_path)
    console = Console(file=io.StringIO(), width=200)
    with Display(sweep, console) as display:
        for trial in sweep.trials.values():
            display.trial_started(trial)
            display.trial_ended(trial)
        display.teacher_epoch(3, {OBJECTIVE: 0.5})
        display.teacher_epoch(4, {OBJECTIVE: 0.5, "stopped_epoch": 4.0})
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "trial 0 complete after 4 of 9 epochs" in text
    assert "trial 1 stopped_early after 4 epochs" in text
    assert "fitting the teacher: epoch 4" in text and "epoch 3" not in text


@pytest.mark.parametrize("scheduler", ["pbt", "hyperband"])
def test_schedulers_that_compare_at_common_epochs_are_refused(scheduler: str) -> None:
    with refused("training.patience", 3, None):
        check_search(load(None, [f"search.scheduler={scheduler}", "training.patience=3"]))
    check_search(load(None, ["search.scheduler=asha", "training.patience=3"]))
