"""Which settings mattered: the order is that of a study made to have one, branches are told apart, bad input is a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from typer.testing import CliRunner

import run
from orchestrator.config import load
from orchestrator.errors import ConfigurationError, UserError
from orchestrator.records import Sweep
from orchestrator.store import Store
from orchestrator.sweep.importance import importance, pages
from orchestrator.tracking.tracker import Tracker, tracking_uri

UNIT = FloatDistribution(0.0, 1.0)
METHODS = CategoricalDistribution(("kd", "ttm"))
Draw = Callable[[np.random.Generator, int], tuple[dict[str, Any], float]]


def flat(generator: np.random.Generator, number: int) -> tuple[dict[str, Any], float]:
    """`rate` decides, `noise` does nothing."""
    params = {"noise": generator.random(), "rate": generator.random()}
    return params, -((params["rate"] - 0.3) ** 2)


def conditional(generator: np.random.Generator, number: int) -> tuple[dict[str, Any], float]:
    """With kd its temperature decides, with ttm nothing does much; `rate` is common and noise."""
    rate, inner = generator.random(), generator.random()
    if number % 2:
        return {"method.name": "kd", "rate": rate, "kd.temperature": inner, "kd.alpha": generator.random()}, inner
    return {"method.name": "ttm", "rate": rate, "ttm.temperature": inner}, 0.5 + 0.01 * rate


def made(root: Path, draw: Draw, trials: int = 40, pruned: int = 0, kind: str = "sweep") -> tuple[Store, Sweep]:
    """A sweep whose study was written by hand; pruned trials have a value after epoch 1 alone, the others after 1 and 2."""
    store = Store.open(root)
    sweep = Sweep.create(store.sweep("mine"), load(None, ["project=tests"]), kind)
    storage = JournalStorage(JournalFileBackend(str(sweep.folder / "study.log")))
    study = optuna.create_study(study_name="mine", storage=storage, direction="maximize")
    generator = np.random.default_rng(0)
    for number in range(trials + pruned):
        params, value = draw(generator, number)
        distributions = {name: METHODS if name == "method.name" else UNIT for name in params}
        whole = number < trials
        told = {"state": TrialState.COMPLETE, "value": value} if whole else {"state": TrialState.PRUNED}
        between = {1: value, 2: value} if whole else {1: value}
        study.add_trial(create_trial(params=params, distributions=distributions, intermediate_values=between, **told))
    return store, sweep


def call(*arguments: str) -> tuple[int, str]:
    """Exit code and everything that was printed."""
    result = CliRunner().invoke(run.app, list(arguments))
    return result.exit_code, result.output


def test_what_decides_comes_first(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, flat)
    journal = (sweep.folder / "study.log").read_bytes()
    (ranking,) = importance(sweep).rankings
    assert (ranking.branch, ranking.trials) == ("whole study", 40)
    for shares in (ranking.ped_anova, ranking.fanova):
        assert list(shares) == ["rate", "noise"] and shares["rate"] > 0.7
        assert sum(shares.values()) == pytest.approx(1.0)
    assert (sweep.folder / "study.log").read_bytes() == journal


def test_two_calls_say_the_same(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, conditional)
    assert importance(sweep).plain() == importance(sweep).plain()


def test_branches_of_a_conditional_study(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, conditional)
    whole, kd, ttm = importance(sweep).rankings
    assert set(whole.ped_anova) == {"method.name", "rate", "kd.temperature", "kd.alpha", "ttm.temperature"}
    assert set(whole.fanova) == {"method.name", "rate"}  # what all trials have
    assert (kd.branch, kd.trials, ttm.branch, ttm.trials) == ("method.name=kd", 20, "method.name=ttm", 20)
    assert set(kd.fanova) == set(kd.ped_anova) == {"rate", "kd.temperature", "kd.alpha"}
    assert next(iter(kd.fanova)) == next(iter(kd.ped_anova)) == "kd.temperature"
    assert next(iter(ttm.fanova)) == "rate"


def test_small_branches_are_named(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, conditional, trials=12)
    found = importance(sweep)
    assert [ranking.branch for ranking in found.rankings] == ["whole study"]
    assert found.left_out == ["method.name=kd: 6 trials", "method.name=ttm: 6 trials"]


def test_a_branch_without_a_choice_is_named_by_its_settings(tmp_path: Path) -> None:
    def optional(generator: np.random.Generator, number: int) -> tuple[dict[str, Any], float]:
        params, value = flat(generator, number)
        return (params | {"extra": generator.random()} if number % 2 else params), value

    _, sweep = made(tmp_path, optional)
    assert [ranking.branch for ranking in importance(sweep).rankings[1:]] == ["with extra", "with no further setting"]


def test_trials_that_were_stopped_early_count_at_an_epoch_that_they_reached(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, flat, trials=6, pruned=20)
    with pytest.raises(UserError, match=r"6 complete trials and at least 8 are needed: .*the 26 trials .* with --epoch 1"):
        importance(sweep)
    found = importance(sweep, epoch=1)
    assert found.rankings[0].trials == 26 and next(iter(found.rankings[0].fanova)) == "rate"
    with pytest.raises(UserError, match="6 trials that reached epoch 2"):
        importance(sweep, epoch=2)


def test_the_numbers_of_trials_are_kept(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, flat, trials=10, pruned=3)
    trials = importance(sweep).study.trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 10 + ["FAIL"] * 3


def test_pages_need_no_network_and_no_setting_of_all_trials(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, conditional)
    made_pages = pages(importance(sweep))
    assert set(made_pages) == {"parallel_coordinate.html", "slice.html"}
    for text in made_pages.values():
        assert "plotly.js v" in text and "kd.temperature" in text and '<script src="http' not in text


@pytest.mark.parametrize(
    ("draw", "trials", "code", "said"),
    [
        (lambda generator, number: (flat(generator, number)[0], 0.5), 10, 1, "reached the same validation/accuracy"),
        (lambda generator, number: ({"rate": 0.5}, generator.random()), 10, 1, "have the same settings"),
        (flat, 7, 1, "has 7 complete trials and at least 8 are needed"),
        (flat, 0, 1, "has 0 complete trials"),
    ],
)
def test_no_answer_is_a_sentence(tmp_path: Path, draw: Draw, trials: int, code: int, said: str) -> None:
    made(tmp_path, draw, trials)
    found, output = call("importance", "mine", "--store", str(tmp_path))
    assert (found, output.count("\n")) == (code, 1) and said in output, output


def test_bad_input_is_a_sentence(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, flat, kind="train")
    for arguments, said in (
        (["mine"], "searched nothing"),
        (["min"], "did you mean 'mine'"),
        (["mine", "--store", str(tmp_path / "none")], "does not exist"),
    ):
        code, output = call("importance", "--store", str(tmp_path), *arguments)
        assert (code, output.count("\n")) == (2, 1) and said in output, output
    sweep.kind = "sweep"
    (sweep.folder / "study.log").write_text("nothing\nof use\n")
    with pytest.raises(ConfigurationError, match="is damaged"):
        importance(sweep)
    (sweep.folder / "study.log").unlink()
    with pytest.raises(UserError, match="0 complete trials"):
        importance(sweep)


def test_it_is_logged_to_the_run_of_the_sweep(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store, sweep = made(tmp_path, conditional)
    code, output = call("importance", "mine", "--store", str(tmp_path))
    assert code == 0 and "not logged: it has no run in MLflow" in output
    Tracker(store, sweep).close("finished")
    code, output = call("importance", "mine", "--store", str(tmp_path))
    assert code == 0 and "logged to the run mine" in output and "method.name=kd: 20 trials" in output, output
    client = MlflowClient(tracking_uri(store, sweep.configuration))
    parent = json.loads((sweep.folder / "mlflow.json").read_text())["parent"]
    whole = importance(sweep).rankings[0]
    metrics = client.get_run(parent).data.metrics
    assert {name: metrics[f"importance/{name}"] for name in whole.ped_anova} == pytest.approx(whole.ped_anova)
    files = {Path(file.path).name for file in client.list_artifacts(parent, "importance")}
    assert files == {"importance.json", "parallel_coordinate.html", "slice.html"}
    text = next(store.artifacts.rglob("importance.json")).read_text()
    assert json.loads(text)["rankings"][0]["trials"] == 40
    client.delete_run(parent)
    code, output = call("importance", "mine", "--store", str(tmp_path))
    assert code == 0 and "not logged: MLflow at sqlite" in output and "whole study: 40 trials" in output
    store.database.unlink()
    code, output = call("importance", "mine", "--store", str(tmp_path))
    assert code == 0 and "not logged: the run of 'mine' is not in MLflow any more" in output and not store.database.exists()


def test_a_server_that_is_away_costs_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    _, sweep = made(tmp_path, flat)
    tracking = sweep.configuration.tracking.model_copy(update={"uri": "http://127.0.0.1:1"})
    sweep.configuration = sweep.configuration.model_copy(update={"tracking": tracking})
    sweep.save()
    (sweep.folder / "mlflow.json").write_text('{"parent": "0"}')
    code, output = call("importance", "mine", "--store", str(tmp_path))
    assert code == 0 and "not logged: MLflow at http://127.0.0.1:1" in output, output
