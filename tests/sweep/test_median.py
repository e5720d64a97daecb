"""Test the median rule over our own epochs: stops, exceptions, resumes."""

from pathlib import Path

import pytest

from orchestrator.config.loader import load
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._early_stopping import MedianRule, build_stopping_rule


def sweep_of(folder: Path, *pairs: str) -> Sweep:
    given = [
        "method.name=kd",
        "training.epochs=10",
        "search.scheduler=median",
        "search.grace_epochs=3",
        *pairs,
    ]
    return Sweep.create(Store.open(folder).sweep("mine"), load(None, given), "sweep")


def rule_of(sweep: Sweep) -> MedianRule:
    rule = build_stopping_rule(sweep.configuration, sweep.trials.values())
    assert isinstance(rule, MedianRule)
    return rule


def stops(rule: MedianRule, number: int, *values: float, first: int = 1) -> list[bool]:
    return [rule.report(number, epoch, value) for epoch, value in enumerate(values, first)]


def test_a_trial_below_the_median_is_stopped_after_the_grace_epochs(tmp_path: Path) -> None:
    rule = rule_of(sweep_of(tmp_path))
    for other, value in zip((1, 2, 3), (0.5, 0.6, 0.7), strict=True):
        assert not any(stops(rule, other, *[value] * 5))
    assert stops(rule, 4, 0.1, 0.1, 0.59) == [False, False, True]
    assert not any(stops(rule, 5, 0.1, 0.1, 0.61, 0.1)), "its best value counts"


def test_two_other_trials_are_too_few(tmp_path: Path) -> None:
    rule = rule_of(sweep_of(tmp_path))
    for other in (1, 2):
        stops(rule, other, *[0.9] * 5)
    assert not any(stops(rule, 3, *[0.1] * 5))


@pytest.mark.parametrize("protected", [True, False])
def test_initial_points_train_all_their_epochs(protected: bool, tmp_path: Path) -> None:
    rule = rule_of(sweep_of(tmp_path, f"search.protect_initial_trials={protected}".lower()))
    for other in (1, 2, 3):  # KD has one initial point, which is trial 0
        stops(rule, other, *[0.9] * 5)
    assert stops(rule, 0, 0.1, 0.1, 0.1)[-1] is not protected


def test_an_epoch_counts_once(tmp_path: Path) -> None:
    rule = rule_of(sweep_of(tmp_path))
    stops(rule, 1, 0.1, 0.2, 0.3)
    stops(rule, 1, 0.9, first=3)
    (history,) = rule.histories.values()
    assert history.last_epoch == 3 and history.best == 0.3


def test_resume_counts_the_finished_epochs(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    for number, state in enumerate(("complete", "stopped_early", "complete", "failed", "running")):
        value = 0.9 if state != "running" else 0.1
        sweep.save_trial(Trial(number, {}, state=state, epochs=5, history=[value] * 5))  # type: ignore[arg-type]
    rule = rule_of(sweep)
    assert set(rule.histories) == {0, 1, 2, 4}, "all but the failed one"
    assert stops(rule, 4, 0.1, first=5) == [False], "its last epoch, reported again"
    assert stops(rule, 4, 0.1, first=6) == [False], "no other trial has reached this epoch"
    assert stops(rule, 5, 0.1, 0.1, 0.1) == [False, False, True]
