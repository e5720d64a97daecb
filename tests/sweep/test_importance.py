"""Test the importance of settings: known orders, separate branches, refusals in a sentence."""

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
from orchestrator.config.loader import load
from orchestrator.core.errors import ConfigurationError, UserError
from orchestrator.reporting.importance import SHUFFLES, importance, pages
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.tracking._values import tracking_uri
from orchestrator.tracking.tracker import Tracker

UNIT = FloatDistribution(0.0, 1.0)
CHOICES = {
    "method.name": CategoricalDistribution(("kd", "ttm", "akd")),
    "akd.schedule": CategoricalDistribution(("constant", "gap")),
    "akd.gap": CategoricalDistribution(("label", "ratio")),
    "akd.cam": CategoricalDistribution((True, False)),
}
Draw = Callable[[np.random.Generator, int], tuple[dict[str, Any], float]]


def flat(generator: np.random.Generator, number: int) -> tuple[dict[str, Any], float]:
    """Return a draw in which `rate` decides and `noise` has no effect."""
    params = {"noise": generator.random(), "rate": generator.random()}
    return params, -((params["rate"] - 0.3) ** 2)


def conditional(generator: np.random.Generator, number: int) -> tuple[dict[str, Any], float]:
    """Return a draw in which kd's temperature decides; ttm's settings have little effect.

    `rate` is common to both, and noise.
    """
    rate, inner = generator.random(), generator.random()
    if number % 2:
        return {
            "method.name": "kd",
            "rate": rate,
            "kd.temperature": inner,
            "kd.alpha": generator.random(),
        }, inner
    return {"method.name": "ttm", "rate": rate, "ttm.temperature": inner}, 0.5 + 0.01 * rate


def nested(generator: np.random.Generator, number: int) -> tuple[dict[str, Any], float]:
    """Return a draw of nested choices in which the rate decides."""
    params: dict[str, Any] = {
        "method.name": "akd",
        "rate": generator.random(),
        "akd.temperature": generator.random(),
    }
    params |= {"akd.schedule": "constant" if number % 5 == 0 else "gap", "akd.cam": number % 3 == 0}
    if params["akd.schedule"] == "gap":
        params |= {"akd.gap": "label" if number % 2 else "ratio"}
        params |= {"akd.slope" if number % 2 else "akd.ema": generator.random()}
    if params["akd.cam"]:
        params["akd.width"] = generator.random()
    return (params if number % 10 else {"method.name": "kd", "rate": params["rate"]}), params[
        "rate"
    ]


def rare(generator: np.random.Generator, number: int) -> tuple[dict[str, Any], float]:
    """Return a draw with random values; two trials have a further setting."""
    params, value = flat(generator, number)[0], generator.random()
    return (params | {"extra": generator.random()} if number in (7, 30) else params), value


def made(
    root: Path,
    draw: Draw,
    trials: int = 40,
    pruned: int = 0,
    kind: str = "sweep",
    changed: int = 0,
    scheduler: str = "none",
) -> tuple[Store, Sweep]:
    """Make a sweep with a hand-written study.

    Pruned trials have a value only after epoch 1, the others after 1 and 2. The first `changed`
    trials copied trial 0 after epoch 1.
    """
    store = Store.open(root)
    sweep = Sweep.create(
        store.sweep("mine"), load(None, ["project=tests", f"search.scheduler={scheduler}"]), kind
    )
    storage = JournalStorage(JournalFileBackend(str(sweep.folder / "study.log")))
    study = optuna.create_study(study_name="mine", storage=storage, direction="maximize")
    generator = np.random.default_rng(0)
    for number in range(trials + pruned):
        params, value = draw(generator, number)
        distributions = {name: CHOICES.get(name, UNIT) for name in params}
        whole = number < trials
        metrics = (
            {"state": TrialState.COMPLETE, "value": value}
            if whole
            else {"state": TrialState.PRUNED}
        )
        between = {1: value, 2: value} if whole else {1: value}
        attrs = (
            {"changes": [{"epoch": 1, "source": 0, "params": params}]} if number < changed else {}
        )
        study.add_trial(
            create_trial(
                params=params,
                distributions=distributions,
                intermediate_values=between,
                user_attrs=attrs,
                **metrics,
            )
        )
    return store, sweep


@pytest.fixture(autouse=True)
def few_shuffles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shuffle the values twice instead of 99 times, which takes most of the time.

    Only one test reads the result.
    """
    monkeypatch.setattr("orchestrator.reporting.importance.SHUFFLES", 2)


def call(*arguments: str) -> tuple[int, str]:
    """Return exit code and everything printed."""
    result = CliRunner().invoke(run.app, list(arguments))
    return result.exit_code, result.output


def test_most_important_setting_comes_first(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, flat)
    journal = (sweep.folder / "study.log").read_bytes()
    (ranking,) = importance(sweep).rankings
    assert (ranking.branch, ranking.trials) == ("whole study", 40)
    for shares in (ranking.ped_anova, ranking.fanova):
        assert list(shares) == ["rate", "noise"] and shares["rate"] > 0.7
        assert sum(shares.values()) == pytest.approx(1.0)
    assert (sweep.folder / "study.log").read_bytes() == journal


def test_importance_is_deterministic(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, conditional)
    assert importance(sweep).plain() == importance(sweep).plain()


def test_branches_of_a_conditional_study(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, conditional)
    found = importance(sweep)
    whole, kd, ttm = found.rankings
    # settings of all trials
    assert set(whole.ped_anova) == set(whole.fanova) == {"method.name", "rate"}
    assert (kd.branch, kd.trials, kd.path) == ("kd", 20, {"method.name": "kd"})
    assert (
        set(kd.fanova)
        == set(kd.ped_anova)
        == set(kd.chance)
        == {"rate", "kd.temperature", "kd.alpha"}
    )
    assert next(iter(kd.fanova)) == next(iter(kd.ped_anova)) == "kd.temperature"
    assert ttm.branch == "ttm" and next(iter(ttm.fanova)) == "rate"
    assert (found.too_few, found.alike) == ([], [])


def test_small_branches_are_named(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, conditional, trials=12)
    found = importance(sweep)
    assert [ranking.branch for ranking in found.rankings] == ["whole study"]
    assert found.too_few == ["kd (6), ttm (6)"]


def test_nested_choices_are_nested_branches(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, nested, trials=40)
    found = importance(sweep)
    names = {ranking.branch: set(ranking.ped_anova) for ranking in found.rankings}
    common = {"rate", "akd.temperature"}
    assert names == {
        "whole study": {"method.name", "rate"},
        "akd": common | {"akd.schedule", "akd.cam"},
        "akd with cam=False": common | {"akd.schedule"},
        "akd with cam=True": common | {"akd.schedule", "akd.width"},
        "akd with schedule=gap": common | {"akd.cam", "akd.gap"},
        "akd with schedule=gap, gap=label": common | {"akd.cam", "akd.slope"},
        "akd with schedule=gap, gap=ratio": common | {"akd.cam", "akd.ema"},
    }
    assert found.too_few == ["akd with schedule=constant (4)", "kd (4)"]
    metrics = found.metrics()
    assert set(metrics) == {
        "method.name",
        "rate",
        "akd.rate",
        "akd.temperature",
        "akd.schedule",
        "akd.cam",
    }


def test_a_sweep_of_one_method_is_split_at_once(tmp_path: Path) -> None:
    def sole(generator: np.random.Generator, number: int) -> tuple[dict[str, Any], float]:
        params, value = nested(generator, number + number // 9 + 1)
        return {name: given for name, given in params.items() if name != "method.name"}, value

    _, sweep = made(tmp_path, sole, trials=36)
    found = importance(sweep)
    assert [ranking.branch for ranking in found.rankings][:2] == ["whole study", "akd.cam=False"]
    assert set(found.metrics()) == {"rate", "akd.temperature", "akd.schedule", "akd.cam"}


def test_a_setting_of_few_trials_is_not_ranked(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, rare, trials=40)
    found = importance(sweep)
    (ranking,) = found.rankings
    assert (
        set(ranking.ped_anova) == set(ranking.fanova) == set(found.metrics()) == {"noise", "rate"}
    )


def test_permutations_separate_important_settings_from_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.reporting.importance.SHUFFLES", SHUFFLES)
    (decided,) = importance(made(tmp_path / "flat", flat)[1]).rankings
    assert decided.chance["rate"] < min(0.05, decided.chance["noise"])
    (random,) = importance(made(tmp_path / "rare", rare, trials=12)[1]).rankings
    assert max(random.ped_anova.values()) > 0.6 and min(random.chance.values()) > 0.05


def test_trials_that_copied_settings_are_excluded(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, flat, trials=20, changed=8, scheduler="pbt")
    found = importance(sweep)
    assert (found.trials, found.changed, found.rankings[0].trials) == (12, 8, 12)
    assert [trial.state.name for trial in found.study.trials] == ["FAIL"] * 8 + ["COMPLETE"] * 12
    early = importance(sweep, epoch=1)  # until then they trained with the drawn values
    assert (early.trials, early.changed) == (20, 0)
    _, output = call("importance", "mine", "--store", str(tmp_path))
    assert "omitted: 8 trials, because population based training changed their settings" in output


def test_changes_in_the_records_exclude_trials_too(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, flat, trials=20, scheduler="pbt")
    sweep.trials[3] = Trial(3, {}, changes=[{"epoch": 1, "source": 0, "params": {}}])
    assert importance(sweep).changed == 1


@pytest.mark.parametrize(
    ("trials", "hint"),
    [(12, "; compare the 12 trials that reached epoch 1 with --epoch 1"), (7, "")],
)
def test_a_population_has_nothing_to_compare(tmp_path: Path, trials: int, hint: str) -> None:
    made(tmp_path, flat, trials=trials, changed=trials, scheduler="pbt")
    code, output = call("importance", "mine", "--store", str(tmp_path))
    why = f"population based training changed the settings of {trials} others during training"
    assert code == 1 and output.count("\n") == 1 and why in output and "--resume" not in output
    assert output.strip().endswith(f"{why}{hint}"), output


def test_population_that_cannot_grow_gets_no_advice_to_grow(tmp_path: Path) -> None:
    made(tmp_path, flat, trials=6, scheduler="pbt")
    code, output = call("importance", "mine", "--store", str(tmp_path))
    assert code == 1 and "--resume" not in output and "cannot grow" in output, output


def test_an_epoch_beyond_the_last_is_refused(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, flat)
    last = sweep.configuration.training.epochs
    for epoch in (last + 1, 0):
        assert call("importance", "mine", "--store", str(tmp_path), "--epoch", str(epoch))[0] == 2
    with pytest.raises(ConfigurationError, match=f"give 1 to {last}"):
        importance(sweep, epoch=last + 1)
    with pytest.raises(UserError, match=f"0 trials that reached epoch {last} .*--resume mine"):
        importance(sweep, epoch=last)


def test_trials_that_were_stopped_early_count_at_an_epoch_that_they_reached(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, flat, trials=6, pruned=20)
    with pytest.raises(
        UserError,
        match=r"6 complete trials and at least 8 are needed: .*the 26 trials .* with --epoch 1",
    ):
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
        assert (
            "plotly.js v" in text and "kd.temperature" in text and '<script src="http' not in text
        )


@pytest.mark.parametrize(
    ("draw", "trials", "code", "message"),
    [
        (
            lambda generator, number: (flat(generator, number)[0], 0.5),
            10,
            1,
            "reached the same validation/accuracy",
        ),
        (
            lambda generator, number: ({"rate": 0.5}, generator.random()),
            10,
            1,
            "have the same settings",
        ),
        (
            lambda generator, number: ({"rate": generator.random()}, generator.random()),
            10,
            1,
            "differ in two settings",
        ),
        (flat, 7, 1, "has 7 complete trials and at least 8 are needed"),
        (flat, 0, 1, "has 0 complete trials"),
    ],
)
def test_missing_result_is_explained_in_one_line(
    tmp_path: Path, draw: Draw, trials: int, code: int, message: str
) -> None:
    made(tmp_path, draw, trials)
    found, output = call("importance", "mine", "--store", str(tmp_path))
    assert (found, output.count("\n")) == (code, 1) and message in output, output


def test_invalid_arguments_are_refused(tmp_path: Path) -> None:
    _, sweep = made(tmp_path, flat, kind="train")
    for arguments, message in (
        (["mine"], "searches no settings"),
        (["min"], "did you mean 'mine'"),
        (["mine", "--store", str(tmp_path / "none")], "does not exist"),
    ):
        code, output = call("importance", "--store", str(tmp_path), *arguments)
        assert (code, output.count("\n")) == (2, 1) and message in output, output
    sweep.kind = "sweep"
    (sweep.folder / "study.log").write_text("nothing\nof use\n")
    with pytest.raises(ConfigurationError, match="is damaged"):
        importance(sweep)
    (sweep.folder / "study.log").unlink()
    with pytest.raises(UserError, match="0 complete trials"):
        importance(sweep)


def test_importance_is_logged_to_the_run_of_the_sweep(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store, sweep = made(tmp_path, conditional)
    code, output = call("importance", "mine", "--store", str(tmp_path))
    assert code == 0 and "not logged: it has no run in MLflow" in output
    Tracker(store, sweep).close("finished")
    code, output = call("importance", "mine", "--store", str(tmp_path))
    assert code == 0 and "logged to the run mine" in output and "kd: 20 trials" in output, output
    client = MlflowClient(tracking_uri(store, sweep.configuration))
    parent = json.loads((sweep.folder / "mlflow.json").read_text())["parent"]
    shares = importance(sweep).metrics()
    metrics = client.get_run(parent).data.metrics
    logged = {
        name.removeprefix("importance/"): share
        for name, share in metrics.items()
        if name.startswith("importance/")
    }
    assert logged == pytest.approx(shares) and "kd.temperature" in shares and "kd.rate" in shares
    files = {Path(file.path).name for file in client.list_artifacts(parent, "importance")}
    assert files == {"importance.json", "parallel_coordinate.html", "slice.html"}
    text = next(store.artifacts.rglob("importance.json")).read_text()
    assert json.loads(text)["rankings"][0]["trials"] == 40
    client.delete_run(parent)
    code, output = call("importance", "mine", "--store", str(tmp_path))
    assert (
        code == 0
        and "not logged: MLflow at sqlite" in output
        and "whole study: 40 trials" in output
    )
    store.database.unlink()
    code, output = call("importance", "mine", "--store", str(tmp_path))
    assert (
        code == 0
        and "not logged: the run of 'mine' was removed from MLflow" in output
        and not store.database.exists()
    )


def test_unreachable_server_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    _, sweep = made(tmp_path, flat)
    tracking = sweep.configuration.tracking.model_copy(update={"uri": "http://127.0.0.1:1"})
    sweep.configuration = sweep.configuration.model_copy(update={"tracking": tracking})
    sweep.save()
    (sweep.folder / "mlflow.json").write_text('{"parent": "0"}')
    code, output = call("importance", "mine", "--store", str(tmp_path))
    assert code == 0 and "not logged: MLflow at http://127.0.0.1:1" in output, output
