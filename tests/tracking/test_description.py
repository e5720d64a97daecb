"""Test a sweep's description: its Markdown text, the data, the driver's machine."""

import json
from pathlib import Path

import pytest

from orchestrator.config.loader import load
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.tracking import _machine as machine
from orchestrator.tracking._description import LONGEST, ROWS, dataset, description
from orchestrator.tracking._machine import Machine
from tests.data_summary import data_summary


def sweep_of(folder: Path, *trials: Trial) -> Sweep:
    made = Sweep.create(
        Store(folder).sweep("mine"),
        load(None, ["search.methods=[kd, akd]", "student.name=cnn"]),
        "sweep",
    )
    made.trials = {trial.number: trial for trial in trials}
    return made


def complete(number: int, value: float) -> Trial:
    params = {
        "method.name": "akd",
        "akd.temperature": 1.23456,
        **{f"akd.setting_{place}": 1.0 for place in range(30)},
    }
    return Trial(number, params, "complete", value, 3, {"test/best/accuracy": value - 0.1})


def test_a_description_shows_the_best_first_and_what_to_do_next(tmp_path: Path) -> None:
    trials = (
        complete(0, 0.5),
        complete(1, 0.75),
        Trial(2, {"method.name": "kd"}, "stopped_early", 0.9, 1),
        Trial(3, {}, "failed"),
    )
    sweep = sweep_of(tmp_path, *trials)
    text = description(Store(tmp_path), sweep, "finished", "tests-mine")
    assert text.startswith(
        "**finished**: 4 trials of kd, akd on digits, student `cnn`, teacher `mlp`"
    )
    assert "The best is trial 1: validation/accuracy 0.7500, test accuracy 0.6500." in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:4] == [
        "| 1 | akd | complete | 3 | 0.7500 | 0.6500 |",
        "| 0 | akd | complete | 3 | 0.5000 | 0.4000 |",
        "| 2 | kd | stopped early | 1 | 0.9000 |  |",
    ]
    assert (
        "Not shown: 1 failed." in text
        and "| akd.temperature | 1.235 |" in text
        and "12 more settings are in its run" in text
    )
    assert (
        "[tests-mine](#/models/tests-mine)" in text
        and f"python run.py export mine --store {tmp_path}" in text
    )


def test_description_of_an_empty_and_of_a_large_sweep(tmp_path: Path) -> None:
    nothing = description(Store(tmp_path), sweep_of(tmp_path / "none"), "running")
    assert (
        "0 trials" in nothing
        and "No trial has completed yet." in nothing
        and "## Trials" not in nothing
        and "export" not in nothing
    )
    much = description(
        Store(tmp_path),
        sweep_of(tmp_path / "much", *(complete(number, number / 99) for number in range(99))),
        "failed",
    )
    assert len(much) <= LONGEST + 20 and f"Not shown: {99 - ROWS} more." in much
    assert [line.split(" | ")[0] for line in much.splitlines() if "| akd | complete" in line] == [
        f"| {98 - row}" for row in range(ROWS)
    ]


def test_the_data_are_known_by_their_fingerprint() -> None:
    summary = data_summary(train=7, shape=(3, 8, 9), labelled=5)
    found = dataset(load(None, []), summary)
    assert (found["name"], found["digest"]) == ("digits", "f" * 36)  # MLflow accepts no longer one
    assert json.loads(found["profile"]) == {
        "sizes": {"train": 7, "validation": 10, "test": 10},
        "shape": [3, 8, 9],
        "mean": [0.5],
        "std": [0.5],
        "labelled": 5,
        "classes": 2,
    }
    features = json.loads(json.loads(found["schema"])["mlflow_tensorspec"]["features"])
    assert features[0]["tensor-spec"]["shape"] == [-1, 8, 9, 3]


def test_a_machine_is_measured_at_most_every_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("orchestrator.tracking._machine.time.monotonic", lambda: now)
    measured = Machine(tmp_path, steps=4)
    now += machine.EVERY_S - 0.1
    assert measured.measure() == {} and measured.steps == 4
    now += 0.2
    found = measured.measure()
    assert measured.steps == 5 and all(
        name.startswith("system/") and value >= 0 for name, value in found.items()
    )
    assert (
        0 < found["system/system_memory_usage_percentage"] <= 100
        and found["system/driver_memory_megabytes"] > 10
    )
    assert measured.measure() == {}
