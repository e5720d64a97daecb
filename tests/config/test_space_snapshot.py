"""Test the comparison of a sweep's space and data with the current ones: named differences."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
from torch import zeros

import search_spaces
from orchestrator.config.fields import MOST_TRIALS
from orchestrator.config.loader import load
from orchestrator.data.prepare import prepare
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep import changed_configuration
from orchestrator.sweep.space_snapshot import described_data, described_space, differences
from search_spaces.space import Space
from search_spaces.space import Trial as SpaceTrial
from tests.refusal import refused

KD = search_spaces.SPACES["kd"]


def space_now(*pairs: str) -> dict[str, Any]:
    return described_space(load(None, ["method.name=kd", *pairs]), "sweep")


def other(points: tuple[dict[str, Any], ...] = KD.points, **changes: Any) -> Space:
    """Return KD's space with edits."""

    def suggest(trial: SpaceTrial) -> None:
        trial.suggest_float(
            "temperature", *changes.get("temperature", (1.0, 10.0)), log=changes.get("log", True)
        )
        if (
            trial.suggest_categorical(
                "alpha_schedule", changes.get("schedules", ("constant", "linear"))
            )
            == "constant"
        ):
            trial.suggest_float("alpha", *changes.get("alpha", (0.1, 1.0)))
        for name in changes.get("more", ()):
            trial.suggest_int(name, 1, 5)

    return Space(points, suggest)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        (
            {"temperature": (1.0, 8.0)},
            ["temperature was 1 to 10, logarithmic and is now 1 to 8, logarithmic"],
        ),
        ({"log": False}, ["temperature was 1 to 10, logarithmic and is now 1 to 10"]),
        ({"alpha": (0.2, 1.0)}, ["alpha was 0.1 to 1 and is now 0.2 to 1"]),
        (
            {"schedules": ("constant", "linear", "gap")},
            ["alpha_schedule was one of constant, linear and is now one of constant, linear, gap"],
        ),
        ({"more": ("depth",)}, ["depth was not searched and is now 1 to 5, whole numbers"]),
        (
            {"schedules": ("constant",)},
            ["alpha_schedule was one of constant, linear and is now always constant"],
        ),
        (
            {"points": ({"temperature": 2.0, "alpha": 0.5, "alpha_schedule": "constant"},)},
            [
                "initial point 1 was temperature = 4.0, alpha_schedule = constant, alpha = 0.9 "
                "and is now temperature = 2.0, alpha_schedule = constant, alpha = 0.5"
            ],
        ),
    ],
)
def test_an_edited_space_is_described(
    changes: dict[str, Any], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    published = ({"temperature": 4.0, "alpha": 0.9, "alpha_schedule": "constant"},)
    monkeypatch.setitem(search_spaces.SPACES, "kd", other(published))
    before = space_now()
    monkeypatch.setitem(search_spaces.SPACES, "kd", other(**({"points": published} | changes)))
    found = differences(before, space_now())
    assert found[: len(expected)] == expected and bool(found) == bool(expected)
    assert all(text.startswith("initial point 1") for text in found[len(expected) :]), (
        "what is tried first follows"
    )


def test_changed_conditions_of_parameters_are_described(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for names in (("one", "two"), ("two", "one")):
        monkeypatch.setitem(
            search_spaces.SPACES, "kd", Space((), partial(suggest_otherwise, names=names))
        )
        found.append(space_now())
    assert differences(*found) == [
        "the search space of the method has changed under {'form': 'one'}, {'form': 'two'}"
    ]


def suggest_otherwise(trial: SpaceTrial, names: tuple[str, str]) -> None:
    form = trial.suggest_categorical("form", ("one", "two"))
    trial.suggest_float("temperature", 1.0, 8.0 if form == names[0] else 10.0)


def test_changes_of_several_methods_have_the_method_as_prefix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = space_now("search.methods=[kd, ttm]")
    monkeypatch.setitem(search_spaces.SPACES, "kd", other(temperature=(1.0, 8.0)))
    found = differences(before, space_now("search.methods=[kd, ttm]"))
    assert "kd.temperature was 1 to 10, logarithmic and is now 1 to 8, logarithmic" in found
    assert not [text for text in found if text.startswith("ttm.")]


def test_shipped_spaces_are_equal_to_themselves() -> None:
    for name in search_spaces.SPACES:
        peers = ["peers.b.network.name=mlp"]
        found = described_space(load(None, [f"method.name={name}", *peers]), "sweep")
        read = json.loads(json.dumps(found))
        assert (
            found["space"][name]
            and found["rates"]
            and differences(read, found) == [] == differences(found, read)
        )
    assert described_space(load(None, ["method.name=kd"]), "train") == {}
    assert differences({}, space_now()) == [], "an older sweep describes nothing"


def test_changed_data_are_described(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"

    def now(samples: int, seed: int = 0) -> dict[str, Any]:
        draw, labels = np.random.default_rng(seed), np.arange(samples) % 3
        images = draw.integers(0, 255, (samples, 8, 8), dtype=np.uint8)
        tested = images[:30], labels[:30]
        np.savez(
            file,
            train_images=images,
            train_labels=labels,
            test_images=tested[0],
            test_labels=tested[1],
        )
        configuration = load(
            None,
            ["data.name=npz", f"data.path={file}", "teacher=null", "method.name=cross_entropy"],
        )
        return described_data(configuration, prepare(configuration.data, tmp_path / "store", 0))

    first = now(1200)
    assert differences(first, now(1200)) == [], "it was written again, and is the same"
    assert differences(first, now(1200, seed=1)) == [
        f"{file} has changed (the same number of samples, but different ones)"
    ]
    assert differences(first, now(1170)) == [
        f"{file} has changed (1,230 samples before, 1,200 now)"
    ]


def test_a_changed_teacher_is_described(tmp_path: Path, digits_store: Path) -> None:
    file = tmp_path / "teacher.safetensors"
    snapshots = []
    for size in (3, 4):
        save_file({"weight": zeros(size)}, file)
        configuration = load(None, [f"teacher.network.weights={file}"])
        snapshots.append(
            described_data(configuration, prepare(configuration.data, digits_store, 0))
        )
    assert differences(snapshots[0], snapshots[0]) == []
    assert differences(*snapshots) == [f"teacher.network.weights = {file} has changed"]


def sweep(tmp_path: Path, *pairs: str, kind: str = "sweep") -> Sweep:
    # as a run resolves it
    configuration = load(
        None, ["method.name=kd", "search.trials=6", "data.augmentation=none", *pairs]
    )
    made = Sweep.create(
        Store.open(tmp_path).sweep("mine"),
        configuration,
        kind,
        described_space(configuration, kind),
    )
    made.save_trial(Trial(0, {}))
    return made


def test_a_changed_space_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Sweep.open(Store(sweep(tmp_path).folder.parent.parent), "mine")
    changed_configuration.require_same(found, space_now())
    monkeypatch.setitem(search_spaces.SPACES, "kd", other(temperature=(1.0, 8.0), more="abcdefg"))
    with refused("--resume") as refusal:
        changed_configuration.require_same(found, space_now())
    assert (
        refusal.value.value[0]
        == "temperature was 1 to 10, logarithmic and is now 1 to 8, logarithmic"
        and len(refusal.value.value) > changed_configuration.NAMED
    )
    assert "more" in str(refusal.value) and "\n" not in str(refusal.value)


def test_trials_may_only_grow_and_the_budget_is_free(tmp_path: Path) -> None:
    found = sweep(tmp_path)
    assert (
        changed_configuration.change_configuration(found, None, None, None) == found.configuration
    )
    grown = changed_configuration.change_configuration(found, 9, 60.0, None).search
    assert (grown.trials, grown.time_budget) == (9, 60.0)
    with refused("--trials", 5, (6, MOST_TRIALS)):
        changed_configuration.change_configuration(found, 5, None, None)


def test_a_training_has_no_trials_to_add(tmp_path: Path) -> None:
    found = sweep(tmp_path, kind="train")
    assert (
        changed_configuration.change_configuration(found, None, None, None) == found.configuration
    )
    for trials, budget in ((2, None), (None, 60.0)):
        with refused("--resume", "mine", "without --trials and --time-budget"):
            changed_configuration.change_configuration(found, trials, budget, None)


def test_a_running_sweep_cannot_be_changed(tmp_path: Path) -> None:
    found = sweep(tmp_path)
    with found.hold(), refused("--resume", "mine", "a sweep that no process runs"):
        changed_configuration.change_configuration(found, None, None, None)


@pytest.mark.parametrize(
    ("text", "different"),
    [
        ("", ()),
        (
            "method: {name: kd}\nteacher: {mode: auto}\ntraining: {epochs: 7}\nsearch: "
            "{trials: 20, time_budget: 9}",
            (),
        ),
        ("training: {epochs: 9}", ("training.epochs = 9",)),
        ("method: {name: ttm}\nseed: 3", ("method.name = ttm", "seed = 3")),
        ("method: {name: kd, temperature: 3.0}", ("method.temperature = 3.0",)),
        (
            "search: {extra_space: {student.width: [8, 16]}}",
            ("search.extra_space.student.width = [8, 16]",),
        ),
    ],
)
def test_a_configuration_file_given_at_a_resume_is_compared(
    text: str, different: tuple[str, ...], tmp_path: Path
) -> None:
    found = sweep(tmp_path, "teacher.mode=online", "training.epochs=7")
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    if not different:
        assert (
            changed_configuration.change_configuration(found, None, None, file)
            == found.configuration
        )
        return
    with refused("--config") as refusal:
        changed_configuration.change_configuration(found, None, None, file)
    assert (
        tuple(
            text.partition(",")[0] if "[" not in text else text[: text.index("]") + 1]
            for text in refusal.value.value
        )
        == different
    )
