"""Test a study of several objectives without Ray: reported values, resumes, records."""

import json
from pathlib import Path
from typing import Any

import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

from orchestrator.config.loader import load
from orchestrator.core.errors import ConfigurationError
from orchestrator.reporting.importance import importance
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store, read_json, write_json
from orchestrator.sweep._study import open_study
from orchestrator.sweep._tune_search import StudySearch
from tests.sweep import studies
from tests.sweep.studies import resumed

TWO = (
    "search.objectives=[validation/nll, b/validation/accuracy]",
    "search.scheduler=none",
    "peers.b.network.name=mlp",
)


def begin(folder: Path, *pairs: str) -> tuple[Sweep, StudySearch]:
    return studies.begin(folder, "training.epochs=2", *(pairs or TWO))


def result(epoch: int, nll: float, accuracy: float | None, **more: Any) -> dict[str, Any]:
    metrics = {"validation/nll": nll} | (
        {} if accuracy is None else {"b/validation/accuracy": accuracy}
    )
    return {"epoch": epoch, "metrics": json.dumps(metrics), **more}


def train(searcher: StudySearch, name: str, nll: float, accuracy: float) -> None:
    searcher.suggest(name)
    searcher.on_trial_result(name, result(1, nll + 1, accuracy / 2))
    searcher.on_trial_complete(name, result(2, nll, accuracy, done=True))


def test_all_values_reach_the_study_and_the_records(tmp_path: Path) -> None:
    _, searcher = begin(tmp_path)
    train(searcher, "x", 0.5, 0.8)
    (frozen,) = searcher.study.trials
    assert searcher.study.directions == [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    assert (
        frozen.state == TrialState.COMPLETE
        and frozen.values == [0.5, 0.8]
        and not frozen.intermediate_values
    )
    found = Sweep.open(Store(tmp_path), "mine").trials[0]
    assert found.values == [0.5, 0.8] and found.value == 0.5 and found.history == [1.5, 0.5]
    assert (
        frozen.params["peers.b.training.learning_rate"]
        == frozen.params["training.learning_rate"]
        == 0.05
    )


def test_epoch_without_an_objective_is_ignored(tmp_path: Path) -> None:
    sweep, searcher = begin(tmp_path)
    for name, last in (("x", None), ("y", float("nan"))):
        searcher.suggest(name)
        searcher.on_trial_complete(name, result(2, 0.5, last, done=True))
    assert [trial.state for trial in sweep.trials.values()] == ["failed", "failed"]
    assert [trial.state for trial in searcher.study.trials] == [TrialState.FAIL, TrialState.FAIL]


def test_resume_continues_and_samples_with_stopped_trials(tmp_path: Path) -> None:
    sweep, searcher = begin(tmp_path)
    for number in range(12):  # more than TPE draws at random
        train(searcher, str(number), 0.5 + 0.01 * number, 0.8 + 0.01 * number)
    for name in ("stopped", "failed", "going"):
        searcher.suggest(name)
    searcher.on_trial_result("stopped", result(1, 0.4, 0.9))
    searcher.on_trial_complete("failed", {"failed": "it diverged", "done": True})
    searcher.limit_time()
    states = [trial.state for trial in sweep.trials.values()]
    assert states[12:] == ["stopped_early", "failed", "stopped_early"]
    assert searcher.study.trials[12].state == TrialState.PRUNED
    searcher.suggest("left")
    found, again = resumed(sweep)
    assert again.suggest("z")["number"] == 15 and again.suggest("new")["number"] == 16
    train(again, "last", 0.1, 0.99)
    assert [trial.number for trial in found.front()] == [17]
    assert found.trials[12].values == [0.4, 0.9], "better than all before, but of fewer epochs"


def test_a_death_between_study_and_record_keeps_all_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, searcher = begin(tmp_path)
    searcher.suggest("x")
    searcher.on_trial_result("x", result(2, 0.5, 0.8))

    def die(trial: Trial) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweep, "save_trial", die)
        searcher.on_trial_complete("x", result(2, 0.5, 0.8, done=True))
    found, _ = resumed(sweep)
    assert found.trials[0].state == "complete" and [trial.number for trial in found.front()] == [0]


@pytest.mark.parametrize(
    "others",
    [
        ("search.objectives=[b/validation/accuracy, validation/nll]", "peers.b.network.name=mlp"),
        ("search.objectives=[validation/nll, train/loss, parameters]",),
        ("search.objective=validation/accuracy",),
    ],
)
def test_other_directions_are_refused(others: tuple[str, ...], tmp_path: Path) -> None:
    sweep, _ = begin(tmp_path)
    with pytest.raises(ConfigurationError, match="which has the directions minimize, maximize"):
        open_study(sweep.folder, load(None, list(others)), resume=True)


def test_pareto_front_and_ranking(tmp_path: Path) -> None:
    sweep, searcher = begin(tmp_path)
    for number, (nll, accuracy) in enumerate(
        [(0.5, 0.8), (0.4, 0.7), (0.6, 0.9), (0.6, 0.85), (0.4, 0.7)]
    ):
        train(searcher, str(number), nll, accuracy)
    assert [trial.number for trial in sweep.ranked()] == [1, 4, 0, 2, 3], (
        "by the first objective, which is minimised"
    )
    assert {trial.number for trial in sweep.front()} == {0, 1, 2, 4}
    status = json.loads(json.dumps(Sweep.open(Store(tmp_path), "mine").status()))
    assert (
        status["objective"] == "validation/nll"
        and status["direction"] == "minimize"
        and status["best"]["number"] == 1
    )
    assert status["objectives"] == [
        {"name": "validation/nll", "direction": "minimize"},
        {"name": "b/validation/accuracy", "direction": "maximize"},
    ]
    assert [(each["number"], each["values"]) for each in status["front"]] == [
        (1, [0.4, 0.7]),
        (4, [0.4, 0.7]),
        (0, [0.5, 0.8]),
        (2, [0.6, 0.9]),
    ]


def test_one_objective_has_no_front_and_old_records_are_read(tmp_path: Path) -> None:
    sweep, searcher = begin(tmp_path, "search.scheduler=none")
    searcher.suggest("x")
    searcher.on_trial_complete(
        "x", {"epoch": 2, "metrics": '{"validation/accuracy": 0.7}', "done": True}
    )
    file = sweep.trial_folder(0) / "trial.json"
    old = read_json(file)
    assert old.pop("values") is None and old.pop("format") == 1
    write_json(file, old)
    found = Sweep.open(Store(tmp_path), "mine")
    assert found.trials[0].value == 0.7 and found.trials[0].values is None and found.front() == []
    assert found.status()["objectives"] == [
        {"name": "validation/accuracy", "direction": "maximize"}
    ]
    assert searcher.study.trials[0].intermediate_values == {2: 0.7}


def test_importance_is_of_the_first_objective(tmp_path: Path) -> None:
    sweep, searcher = begin(tmp_path)
    for number in range(10):
        searcher.suggest(str(number))
        rate = sweep.trials[number].params["training.learning_rate"]
        searcher.on_trial_result(str(number), result(1, 2 * rate, 0.5))
        searcher.on_trial_complete(str(number), result(2, rate, float(number % 3), done=True))
    found = importance(sweep)
    assert (found.objective, found.direction, found.trials) == ("validation/nll", "minimize", 10)
    shares = found.rankings[0].fanova
    assert max(shares, key=lambda name: shares[name]) == "training.learning_rate"
    early = importance(sweep, epoch=1)
    assert early.trials == 10 and {trial.value for trial in early.study.trials} == {
        2 * trial.value for trial in sweep.trials.values() if trial.value is not None
    }
