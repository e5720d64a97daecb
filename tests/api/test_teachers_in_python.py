"""Test runs with several teachers end to end, from Python: one fit and one cache per teacher."""

from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator import api as od
from orchestrator.api._runs import RunOptions, _request
from orchestrator.export.export import export
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.teacher.quality import read_qualities
from orchestrator.tracking._description import description, tags
from tests.api.conftest import TwoLayers
from tests.refusal import refused

QUIET: dict[str, Any] = {"progress": False, "batch_size": 32, "epochs": 1}


def folders(path: Path) -> set[str]:
    return {each.name for each in path.iterdir() if each.is_dir() and each.name != "groups"}


def test_each_teacher_is_fitted_and_cached_once(store: Path, data: od.Data) -> None:
    first, second = (od.teacher("mlp", width=width, epochs=1) for width in (16, 6))
    od.distil("mlp", first, data, store=store, name="alone", **QUIET)
    teachers, caches = folders(store / "teachers"), folders(store / "knowledge")
    confidence = {"ensemble.weights": "confidence"}
    both = [first, second]
    result = od.distil("mlp", both, data, store=store, name="both", settings=confidence, **QUIET)
    assert teachers < folders(store / "teachers") and caches < folders(store / "knowledge")
    assert len(folders(store / "teachers")) == len(folders(store / "knowledge")) == 2
    weights = [result.metrics[f"ensemble/weight_{number}"] for number in range(2)]
    assert sum(weights) == pytest.approx(1)
    opened = Store.existing(store)
    sweep = Sweep.open(opened, "both")
    qualities = read_qualities(sweep.folder, 2)
    assert all(quality and quality.accuracy is not None for quality in qualities)
    assert tags(sweep.configuration, "kd")["teacher"] == "mlp, mlp"
    assert description(opened, sweep, "finished").count("validation accuracy") == 2
    settings = export(opened, "both").settings
    assert settings.teacher is None and len(settings.teachers) == 2
    assert settings.ensemble["weights"] == "confidence"
    for others in (first, [second, first], [first, od.teacher("mlp", width=6, epochs=2)]):
        with refused("resume"):
            od.distil("mlp", others, data, store=store, resume="both", **QUIET)


def test_modules_with_weights_are_teachers(store: Path, data: od.Data) -> None:
    torch.manual_seed(0)
    modules = [TwoLayers(10, 6), TwoLayers(10, 6)]  # they differ in their weights alone
    result = od.distil("mlp", modules, data, store=store, **QUIET)
    weights = {each["network"]["weights"] for each in result.settings["teachers"]}
    assert len(weights) == 2 and result.metrics["ensemble/weight_1"] == 0.5


def test_a_list_of_one_teacher_requests_the_same_run(data: od.Data) -> None:
    teacher, options = od.teacher("mlp", width=16, epochs=1), RunOptions("", None, None, False, 1)
    single, listed = (
        _request("train", ["mlp"], given, data, {}, {}, options).values
        for given in (teacher, [teacher])
    )
    assert single == listed
