"""Test the end of a sweep because of failures, and the message about their common cause."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cli import _run as commands
from orchestrator.config.loader import load
from orchestrator.core import errors
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._failures import FailuresInARow, describe_failures
from orchestrator.sweep._stopper import SweepStopper

DIVERGED = "the loss is not finite in epoch {}: lower training.learning_rate"


def ended(number: int, state: Any = "failed", message: str = "broken", **params: Any) -> Trial:
    return Trial(number, params, state, message=message)


def after(limit: int | None, *states: str) -> FailuresInARow:
    trials = {number: ended(number, state) for number, state in enumerate(states)}
    failures = FailuresInARow(limit, trials)
    for trial in trials.values():
        failures.trial_ended(trial)
    return failures


@pytest.mark.parametrize(
    ("limit", "states", "ends"),
    [
        (2, ["failed"], False),
        (2, ["failed", "failed"], True),
        (2, ["failed", "complete", "failed"], False),
        (2, ["failed", "stopped_early", "failed"], False),
        (2, ["failed", "waiting", "failed"], True),
        (3, ["failed", "complete", "failed", "failed", "failed"], True),
        (1, ["complete", "failed"], True),
        (None, ["failed"] * 50, False),
    ],
)
def test_failures_in_a_row_are_counted_by_end(
    limit: int | None, states: list[str], ends: bool
) -> None:
    failures = after(limit, *states)
    assert bool(failures.reason) is ends is SweepStopper(failures).stop_all()


def test_first_reason_is_kept() -> None:
    reason = after(2, "failed", "failed").reason
    assert after(2, "failed", "failed", "failed").reason == reason
    assert (
        reason == "the last 2 trials all failed (search.max_failed_trials = 2): same error: broken"
    )


def test_messages_that_differ_only_in_numbers_are_the_same() -> None:
    failed = [ended(n, message=DIVERGED.format(n + 1), lr=10.0 + n) for n in range(3)]
    assert describe_failures(failed, []) == f"same error: {DIVERGED.format(3)}"


def test_settings_that_a_usable_trial_has_are_not_to_blame() -> None:
    settings: dict[str, Any] = {"method.name": "kd", "depth": 9, "seed": 1, "on": True}
    failed = [ended(n, message=f"reason {'xyz'[n]}", **settings, lr=n) for n in range(3)]
    usable = [ended(9, "complete", **{**settings, "method.name": "dkd", "depth": 8})]
    description = describe_failures(failed, usable)
    assert (
        description == "different errors, the last one: reason z; settings in common: "
        'method.name = "kd", depth = 9'
    )


def test_setting_missing_in_one_trial_is_not_in_common() -> None:
    failed = [ended(0, depth=9, width=1), ended(1, depth=9), ended(2, depth=9, width=1)]
    assert describe_failures(failed, []) == "same error: broken; settings in common: depth = 9"


def test_single_failure_has_no_common_settings() -> None:
    assert describe_failures([ended(0, depth=9)], []) == "same error: broken"


def test_trial_without_workers_ends_the_run_but_not_itself() -> None:
    ending = SweepStopper(FailuresInARow(1, {}))
    assert not ending("a", {"epoch": 1}) and not ending.stop_all()
    assert not ending("a", {"unfit": "no worker group is left", "done": True})
    assert ending.stop_all() and ending.unfit == "no worker group is left"


@pytest.mark.parametrize(
    ("state", "code", "resumes"),
    [
        ("finished", errors.OK, False),
        ("failed", errors.NO_USABLE_TRIAL, True),
        ("interrupted", 130, True),
    ],
)
def test_sweep_that_ended_early_fails_and_shows_the_resume_command(
    state: str,
    code: int,
    resumes: bool,
    specify: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    """The sweep has failed although one of its trials can be used."""
    found = Sweep.create(
        Store.open(tmp_path).sweep("mine"), load(None, ["search.trials=9"]), "sweep"
    )
    usable = Trial(0, {}, "complete", value=0.5, metrics={"validation/accuracy": 0.5})

    def conduct(sweep: Sweep, *given: Any, **named: Any) -> None:
        sweep.trials, sweep.state = {0: usable, 1: ended(1)}, state

    monkeypatch.setattr("orchestrator.sweep.driver.run_sweep", conduct)
    prepared: Any = SimpleNamespace(data=specify().data, teacher_access=None, note="", facts=None)
    assert (
        commands._run_and_print(Store(tmp_path), found, prepared, local_processes=0, resume=False)
        == code
    )
    assert ("sweep --resume mine" in capsys.readouterr().out) is resumes
