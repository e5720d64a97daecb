"""Test the card of a student whose settings were trained with several seeds."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import run
from orchestrator.config.loader import build
from orchestrator.export.export import export
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store, read_json, write_json

SETTINGS = (
    "training.epochs=1",
    "teacher.training.epochs=1",
    "data.limit.train=200",
    "student.name=mlp",
    "student.width=4",
    "method.name=cross_entropy",
)
UNKNOWN = "One training, with seed 1: the variation over seeds was not measured."


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with one training, `mine`."""
    root = tmp_path_factory.mktemp("seeds") / "store"
    pairs = [part for pair in SETTINGS for part in ("--set", pair)]
    result = CliRunner().invoke(
        run.app, ["train", "--local", "--store", str(root), "--name", "mine", *pairs]
    )
    assert result.exit_code == 0, result.output
    return root


def seeded(trained: Path, to: Path, trials: list[dict[str, Any]], seeds: list[int]) -> Store:
    """Return a store whose run has these trials.

    Each has `rate`, `seed`, the test `accuracy` of the last weights, and `state`.
    """
    shutil.copytree(trained, to)
    store = Store(to)
    sweep = Sweep.open(store, "mine")
    fixed = [{"training.learning_rate": rate} for rate in (0.1, 0.2)] if seeds else []
    search = {"configurations": fixed, "seeds": seeds, "trials": max(1, len(fixed) * len(seeds))}
    sweep.configuration = build(sweep.configuration.plain() | {"search": search})
    sweep.save()
    first = sweep.trial_folder(0)
    plain = read_json(first / "trial.json")
    for number, one in enumerate(trials):
        folder = sweep.trial_folder(number)
        if folder != first:
            shutil.copytree(first, folder)
        params = {"training.learning_rate": one["rate"], "seed": one["seed"]}
        metrics = plain["metrics"] | {"test/last/accuracy": one["accuracy"]}
        changes = {
            "number": number,
            "params": params,
            "metrics": metrics,
            "state": one.get("state", "complete"),
        }
        write_json(folder / "trial.json", plain | changes)
    return store


def trial(rate: float, seed: int, accuracy: float, state: str = "complete") -> dict[str, Any]:
    return {"rate": rate, "seed": seed, "accuracy": accuracy, "state": state}


def test_mean_and_standard_error_are_of_the_complete_trials_with_equal_settings(
    trained: Path, tmp_path: Path
) -> None:
    trials = [
        trial(0.1, 1, 0.80),
        trial(0.2, 1, 0.10),
        trial(0.1, 2, 0.83),
        trial(0.1, 3, 0.86),
        trial(0.1, 4, 0.2, "failed"),
    ]
    store = seeded(trained, tmp_path / "store", trials, [1, 2, 3, 4])
    found = export(store, "mine", number=0)
    over = found.settings.over_seeds
    assert over and over.seeds == [1, 2, 3]
    assert over.metrics["test/last/accuracy"] == pytest.approx(
        {"mean": 0.83, "error": 0.03 / 3**0.5}
    )
    assert {"validation/last/nll", "test/best/accuracy"} <= set(over.metrics)
    assert not any(name.startswith(("train/", "seconds/")) for name in over.metrics)
    assert read_json(found.folder / "settings.json") == found.settings.plain()
    card = (found.folder / "README.md").read_text()
    assert (
        "of the 3 seeds with these settings (1, 2, 3):" in card
        and "0.8300 ± 0.0173" in card
        and "not measured" not in card
    )


@pytest.mark.parametrize("seeds", [[], [1, 2]])
def test_card_of_one_seed_has_no_variation_over_seeds(
    trained: Path, tmp_path: Path, seeds: list[int]
) -> None:
    store = seeded(
        trained,
        tmp_path / "store",
        [trial(0.1, 1, 0.8), trial(0.2, 1, 0.7), trial(0.1, 2, 0.1, "failed")],
        seeds,
    )
    found = export(store, "mine", number=0)
    card = (found.folder / "README.md").read_text()
    assert found.settings.over_seeds is None and UNKNOWN in card and "±" not in card
