"""Test study, records and rungs after ends, deaths and resumes, without Ray's actors."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._early_stopping import build_stopping_rule
from orchestrator.sweep._study import open_study
from orchestrator.sweep._tune_search import StudySearch
from tests.refusal import refused
from tests.sweep import studies
from tests.sweep.studies import resumed


def begin(folder: Path, *pairs: str) -> tuple[Sweep, StudySearch]:
    return studies.begin(folder, "training.epochs=4", *pairs)


def result(epoch: int, value: float, **more: Any) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "metrics": json.dumps({"validation/accuracy": value}),
        "validation/accuracy": value,
        **more,
    }


def test_states_of_ended_trials_differ(tmp_path: Path) -> None:
    sweep, searcher = begin(tmp_path)
    for name in "abcd":
        searcher.suggest(name)
    searcher.on_trial_result("a", result(3, 0.8))
    searcher.on_trial_complete("a", result(4, 0.9, done=True))
    searcher.on_trial_complete("b", result(1, 0.2))  # ASHA stopped it
    searcher.on_trial_complete("c", {"failed": "the loss is not finite", "done": True})
    searcher.on_trial_complete("d", None, error=True)  # its proxy died
    assert [trial.state for trial in sweep.trials.values()] == [
        "complete",
        "stopped_early",
        "failed",
        "failed",
    ]
    outcomes = [(trial.state, trial.value) for trial in searcher.study.trials]
    assert outcomes == [
        (TrialState.COMPLETE, 0.9),
        (TrialState.PRUNED, 0.2),
        (TrialState.FAIL, None),
        (TrialState.FAIL, None),
    ]
    assert sweep.trials[2].message == "the loss is not finite"
    assert sweep.best() is sweep.trials[0]


def test_first_initial_point_is_the_published_one(tmp_path: Path) -> None:
    _, searcher = begin(tmp_path)
    first = Configuration.model_validate_json(searcher.suggest("a")["configuration"])
    assert (
        first.method.settings == {"temperature": 4.0, "alpha": 0.9}
        and first.training.learning_rate == 0.05
    )


def test_a_drawn_trial_is_submitted_before_its_proxy_starts(tmp_path: Path) -> None:
    _, searcher = begin(tmp_path)
    submitted: list[tuple[int, Configuration]] = []

    def submit(trial: Trial, configuration: Configuration) -> str:
        submitted.append((trial.number, configuration))
        return "token"

    searcher.submit = submit
    config = searcher.suggest("a")
    assert config["token"] == "token"
    assert submitted == [(0, Configuration.model_validate_json(config["configuration"]))]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_resumed_search_does_not_repeat_itself(sampler: str, tmp_path: Path) -> None:
    sweep, searcher = begin(tmp_path, f"search.sampler={sampler}")
    first = [searcher.suggest(str(number)) for number in range(4)]
    for number in range(4):
        searcher.on_trial_complete(str(number), result(4, 0.5, done=True))
    _, again = resumed(sweep)
    second = [again.suggest(str(number)) for number in range(4)]
    assert [trial["number"] for trial in second] == [4, 5, 6, 7]
    assert not {trial["configuration"] for trial in first} & {
        trial["configuration"] for trial in second
    }


def test_a_death_between_study_and_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, searcher = begin(tmp_path)
    for name in "ab":
        searcher.suggest(name)
    searcher.on_trial_result("a", result(4, 0.7))

    def die(trial: Trial) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "save_trial", die)
        with pytest.raises(KeyboardInterrupt):
            searcher.on_trial_complete("a", result(4, 0.7, done=True))
    found, again = resumed(sweep)
    assert found.trials[0].state == "complete" and found.trials[0].value == 0.7
    assert again.suggest("x")["number"] == 1  # only the unfinished trial is resumed


def test_an_epoch_that_the_study_alone_has_is_not_reported_to_it_again(tmp_path: Path) -> None:
    """Records that arrive together are written once, after the study has all of them."""
    _, searcher = begin(tmp_path)
    searcher.suggest("a")
    searcher.on_trial_result("a", result(1, 0.5, behind=True))
    assert searcher.study.trials[0].intermediate_values == {1: 0.5}
    found, again = resumed(searcher.events.sweep)
    assert found.trials[0].epochs == 0
    again.suggest("a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna's warning about a repeated step
        again.on_trial_result("a", result(1, 0.5))
        again.on_trial_result("a", result(2, 0.6))
    assert again.study.trials[0].intermediate_values == {1: 0.5, 2: 0.6}


def test_death_between_draw_and_record(tmp_path: Path) -> None:
    sweep, searcher = begin(tmp_path)
    searcher.study.ask()
    found, again = resumed(sweep)
    assert again.study.trials[0].state == TrialState.RUNNING and found.trials[0].state == "waiting"
    assert again.suggest("x")["number"] == 0, "it is taken up"
    assert found.trials[0].params == {
        "temperature": 4.0,
        "alpha": 0.9,
        "training.learning_rate": 0.05,
    }
    assert again.suggest("y")["number"] == 1


def test_a_resumed_trial_keeps_its_place_in_the_rungs(tmp_path: Path) -> None:
    pairs = (
        "training.epochs=30",
        "search.grace_epochs=5",
        "search.reduction_factor=3",
        "search.protect_initial_trials=false",
    )
    sweep, searcher = begin(tmp_path, *pairs)
    searcher.suggest("a")
    history = [0.4 + 0.01 * epoch for epoch in range(20)]
    for epoch, value in enumerate(history, start=1):
        searcher.on_trial_result("a", result(epoch, value))
    found, _ = resumed(sweep)
    asha = build_stopping_rule(found.configuration, found.trials.values())
    assert asha is not None and not asha.report(0, 21, 0.9)
    # the rung of epoch 5 holds the trial's value of epoch 5, not its 0.9 of epoch 21
    assert not asha.report(1, 5, history[4] + 0.01)
    assert asha.report(2, 5, history[4] - 0.01)


def test_one_driver_at_a_time(tmp_path: Path) -> None:
    sweep, _ = begin(tmp_path)
    found = Sweep.open(Store(tmp_path), "mine")
    assert not found.alive and found.status()["state"] == "interrupted"
    with sweep.hold():
        assert found.alive and found.status()["state"] == "running"
        with refused("name", "mine", "a sweep that no process runs") as refusal, found.hold():
            pass
        assert f"process {os.getpid()} " in str(refusal.value)
    assert not found.alive


def test_another_direction_is_refused(tmp_path: Path) -> None:
    sweep, _ = begin(tmp_path)
    other = load(None, ["search.direction=minimize", "search.objective=validation/nll"])
    with refused("search.direction", "minimize", ("maximize",)):
        open_study(sweep.folder, other, resume=True)


def test_initial_points_train_all_their_epochs(tmp_path: Path) -> None:
    sweep, _ = begin(tmp_path, "training.epochs=30", "search.grace_epochs=5")
    asha = build_stopping_rule(sweep.configuration)
    assert asha is not None
    # KD has one initial point, which is trial 0
    stops = [asha.report(number, 5, value) for number, value in ((1, 0.9), (0, 0.1), (2, 0.1))]
    assert stops == [False, False, True]


def test_trial_without_workers_has_not_ended(tmp_path: Path) -> None:
    sweep, asking = begin(tmp_path)
    asking.suggest("id")
    asking.on_trial_result("id", result(1, 0.5))
    asking.on_trial_complete("id", {"unfit": "no worker group is left", "done": True})
    assert not sweep.trials[0].ended and sweep.trials[0].epochs == 1
    asking.on_trial_complete("id", {"failed": "it diverged", "done": True})
    assert sweep.trials[0].state == "failed"
