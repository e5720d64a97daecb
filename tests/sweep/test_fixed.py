"""Test trials of a list without Ray: their settings, their order, deaths, and refused lists."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import apply
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep._reconcile import reconcile
from orchestrator.sweep._study import open_study
from orchestrator.sweep._tune_search import StudySearch
from orchestrator.sweep.events import Events
from orchestrator.sweep.preflight.configuration import check_search
from orchestrator.sweep.space_snapshot import described_space, differences
from tests.refusal import ANY, refused

FIXED: list[dict[str, Any]] = [
    {
        "method.name": "cross_entropy",
        "cross_entropy.label_smoothing": 0.1,
        "training.learning_rate": 0.2,
    },
    {"method.name": "kd", "kd.temperature": 2.0, "kd.alpha": 0.75, "training.learning_rate": 0.1},
]
SEEDS = (4, 7, 9)
EPOCHS = 2


def listed(**changes: Any) -> Configuration:
    search = {
        "methods": ["cross_entropy", "kd"],
        "configurations": FIXED,
        "seeds": SEEDS,
        "trials": 6,
        "scheduler": "none",
        **changes,
    }
    return load(
        None,
        [f"search.{key}={json.dumps(value)}" for key, value in search.items()]
        + [f"training.epochs={EPOCHS}"],
    )


def searcher_of(sweep: Sweep, resume: bool) -> StudySearch:
    study = open_study(sweep.folder, sweep.configuration, resume)
    reconcile(study, sweep)
    unfinished = [trial for trial in sweep.trials.values() if not trial.ended]
    return StudySearch(study, sweep.configuration, Events(sweep, []), unfinished)


def end(searcher: StudySearch, name: str) -> None:
    metrics = json.dumps({"validation/accuracy": 0.5})
    searcher.on_trial_complete(name, {"epoch": EPOCHS, "metrics": metrics, "done": True})


def trained(sweep: Sweep) -> list[tuple[str, float, Any, int]]:
    """Return method, learning rate, own setting and seed of every trial, as a worker gets them."""
    found = []
    for _, trial in sorted(sweep.trials.items()):
        configuration = apply(sweep.configuration, trial.settings)
        settings = configuration.method.settings
        own = settings.get("label_smoothing", settings.get("temperature"))
        found.append(
            (
                configuration.method.name,
                configuration.training.learning_rate,
                own,
                configuration.seed,
            )
        )
    return found


def test_all_listed_configurations_are_trained_despite_deaths(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    sweep = Sweep.create(store.sweep("mine"), listed(), "sweep")
    check_search(sweep.configuration)
    searcher = searcher_of(sweep, resume=False)
    for name in "abc":
        searcher.suggest(name)
    end(searcher, "a")
    # of a trial that was running at the driver's death
    (sweep.trial_folder(1) / "trial.json").unlink()
    again = Sweep.open(store, "mine")
    searcher = searcher_of(again, resume=True)
    for name in "bcdef":
        searcher.suggest(name)
        end(searcher, name)
    found = Sweep.open(store, "mine")
    of_seed = [("cross_entropy", 0.2, 0.1), ("kd", 0.1, 2.0)]
    assert trained(found) == [(*one, seed) for seed in SEEDS for one in of_seed]
    assert {trial.state for trial in found.trials.values()} == {"complete"}


def test_without_seeds_every_setting_is_trained_once() -> None:
    configuration = listed(seeds=[], trials=2)
    check_search(configuration)
    assert described_space(configuration, "sweep")["points"] == FIXED


def test_changed_list_of_configurations_is_reported() -> None:
    before, now = (
        described_space(listed(seeds=seeds), "sweep") for seeds in ([4, 7, 9], [4, 7, 8])
    )
    assert not differences(before, before)
    assert any("seed = 9" in text and "seed = 8" in text for text in differences(before, now))


FIRST = "search.configurations[0]"


@pytest.mark.parametrize(
    ("changes", "field", "value", "allowed"),
    [
        ({"trials": 5}, "search.trials", 5, (6, 6)),
        ({"seeds": [1, 1, 2]}, "search.seeds", (1, 1, 2), "each once"),
        (
            {
                "configurations": [{"method.name": "kd"}] * 400,
                "seeds": list(range(400)),
                "trials": 1,
            },
            "search.configurations",
            160_000,
            (1, 100_000),
        ),
        ({"configurations": [], "trials": 6}, "search.seeds", (4, 7, 9), ()),
        ({"scheduler": "pbt"}, "search.scheduler", "pbt", ("none",)),
        ({"configurations": [{"seed": 3}], "trials": 3}, f"{FIRST}.seed", 3, "search.seeds"),
        (
            {"configurations": [{"method.name": "kd", "kd.temprature": 2.0}], "trials": 3},
            f"{FIRST}.temprature",
            2.0,
            ANY,
        ),
        (
            {"configurations": [{"method.name": "ttm"}], "trials": 3},
            f"{FIRST}.method.name",
            "ttm",
            ("cross_entropy", "kd"),
        ),
        (
            {"configurations": [{"training.learning_rate": -1.0}], "trials": 3},
            f"{FIRST}.training.learning_rate",
            -1.0,
            (0, 1e30),
        ),
        (
            {"configurations": [{"nothing.such": 1.0}], "trials": 3},
            f"{FIRST}.nothing.such",
            1.0,
            ANY,
        ),
        (
            {"configurations": [{"temperature": [1.0]}], "trials": 3},
            f"{FIRST}.temperature",
            [1.0],
            ANY,
        ),
    ],
)
def test_invalid_list_of_configurations_is_refused(
    changes: dict[str, Any], field: str, value: object, allowed: object
) -> None:
    with refused(field, value, allowed):
        check_search(listed(**changes))
