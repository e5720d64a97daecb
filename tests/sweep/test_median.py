"""Test the median rule over our own epochs without Ray's actors: stops, exceptions, resumes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.config.loader import load
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._scheduler import build_independent_scheduler

VALUE = "validation/accuracy"


class Running:
    """The rule's view of a trial."""

    def __init__(self, number: int) -> None:
        self.config, self.trial_id = {"number": number}, f"id-{number}"


CONTROLLER: Any = SimpleNamespace(get_live_trials=lambda: [SimpleNamespace(status="PENDING")])


def sweep_of(folder: Path, *pairs: str) -> Sweep:
    given = [
        "method.name=kd",
        "training.epochs=10",
        "search.scheduler=median",
        "search.grace_epochs=3",
        *pairs,
    ]
    return Sweep.create(Store.open(folder).sweep("mine"), load(None, given), "sweep")


def decisions(rule: Any, trial: Running, *values: float, first: int = 1) -> list[str]:
    return [
        rule.on_trial_result(CONTROLLER, trial, {"epoch": epoch, VALUE: value})
        for epoch, value in enumerate(values, first)
    ]


def start_trials(rule: Any, *numbers: int) -> list[Running]:
    trials = [Running(number) for number in numbers]
    for trial in trials:
        rule.on_trial_add(CONTROLLER, trial)
    return trials


def test_a_trial_below_the_median_is_stopped_after_the_grace_epochs(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    rule = build_independent_scheduler(sweep.configuration, sweep)
    *others, poor, good = start_trials(rule, 1, 2, 3, 4, 5)
    for other, value in zip(others, (0.5, 0.6, 0.7), strict=True):
        assert decisions(rule, other, *[value] * 5) == ["CONTINUE"] * 5
    assert decisions(rule, poor, 0.1, 0.1, 0.59) == ["CONTINUE", "CONTINUE", "STOP"]
    assert decisions(rule, good, 0.1, 0.1, 0.61, 0.1) == ["CONTINUE"] * 4, "its best value counts"


def test_two_other_trials_are_too_few_and_pause_none(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    rule = build_independent_scheduler(sweep.configuration, sweep)
    *others, poor = start_trials(rule, 1, 2, 3)
    for other in others:
        decisions(rule, other, *[0.9] * 5)
    assert decisions(rule, poor, *[0.1] * 5) == ["CONTINUE"] * 5


@pytest.mark.parametrize(("spared", "decision"), [("true", "CONTINUE"), ("false", "STOP")])
def test_initial_points_train_all_their_epochs(spared: str, decision: str, tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, f"search.protect_initial_trials={spared}")
    rule = build_independent_scheduler(sweep.configuration, sweep)
    *others, point = start_trials(rule, 1, 2, 3, 0)  # KD has one initial point, which is trial 0
    for other in others:
        decisions(rule, other, *[0.9] * 5)
    assert decisions(rule, point, 0.1, 0.1, 0.1)[-1] == decision


def test_end_of_a_failed_trial_raises_no_error(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    rule = build_independent_scheduler(sweep.configuration, sweep)
    failed, other = start_trials(rule, 1, 2)
    decisions(rule, failed, 0.5, 0.5)
    rule.on_trial_complete(CONTROLLER, failed, {"failed": "it diverged", "done": True})
    assert decisions(rule, other, *[0.5] * 4) == ["CONTINUE"] * 4


def test_an_epoch_counts_once(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    rule: Any = build_independent_scheduler(sweep.configuration, sweep)
    (trial,) = start_trials(rule, 1)
    decisions(rule, trial, 0.1, 0.2, 0.3)
    decisions(rule, trial, 0.3, first=3)
    rule.on_trial_complete(CONTROLLER, trial, {"epoch": 3, VALUE: 0.3, "done": True})
    assert [result["epoch"] for result in rule._results[trial]] == [1, 2, 3]
    rule.on_trial_complete(CONTROLLER, trial, {"epoch": 4, VALUE: 0.4, "done": True})
    assert rule._running_mean(trial, 9) == pytest.approx(0.35), (
        "the last epoch, which is the trial's end, counts too"
    )


def test_resume_counts_the_finished_epochs(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    for number, state in enumerate(("complete", "stopped_early", "complete", "failed", "running")):
        value = 0.9 if state != "running" else 0.1
        sweep.save_trial(Trial(number, {}, state=state, epochs=5, history=[value] * 5))  # type: ignore[arg-type]
    rule: Any = build_independent_scheduler(sweep.configuration, sweep)
    going_on, fresh = start_trials(rule, 4, 5)
    assert len(rule._results) == 4, "all but the failed one"
    assert decisions(rule, going_on, 0.95, first=5) == ["CONTINUE"], (
        "its last epoch, reported again"
    )
    assert decisions(rule, going_on, 0.1, first=6) == ["CONTINUE"], (
        "no other trial has reached this epoch"
    )
    assert decisions(rule, fresh, 0.1, 0.1, 0.1) == ["CONTINUE", "CONTINUE", "STOP"]
