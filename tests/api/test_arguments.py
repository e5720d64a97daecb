"""Refuse arguments of the Python interface that cannot be used, and read those that can."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from orchestrator import api as od
from orchestrator.api._options import SECTIONS, read_options
from orchestrator.api._teacher import as_teachers
from tests.api.conftest import Arrays, TwoLayers
from tests.refusal import refused


def distil(student: Any = "mlp", **given: Any) -> od.Result:
    """Run with defaults; every test is refused before a training."""
    arguments: dict[str, Any] = {"teacher": None, "data": "digits", "method": "cross_entropy"}
    return od.distil(student, **(arguments | {"progress": False} | given))


def test_keys_of_different_sections_do_not_collide() -> None:
    for sections in (("training", "resources"), ("search", "training", "resources")):
        names = [name for section in sections for name in SECTIONS[section].model_fields]
        assert len(set(names)) == len(names)


def test_arguments_are_keys_of_the_configuration() -> None:
    values = read_options(
        "sweep",
        ("search", "training", "resources"),
        {"epochs": 3, "trials": 4, "workers": 2, "seed": 1, "data.views": 2},
        {"method.temperature": 4},
    )
    assert values == {
        "training.epochs": 3,
        "search.trials": 4,
        "resources.workers": 2,
        "seed": 1,
        "data.views": 2,
        "method.temperature": 4,
    }


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"epoch": 1}, "epoch"),
        ({"trials": 1}, "trials"),
        ({"epochs": 0}, "training.epochs"),
        ({"epochs": 1, "settings": {"training.epochs": 2}}, "training.epochs"),
        ({"settings": {"training": {"epochs": 1}, "training.epochs": 2}}, "training.epochs"),
        ({"settings": {"training.epoch": 2}}, "training.epoch"),
        ({"student": {"name": "mlp", "width": 4}, "settings": {"student.width": 8}}, "student"),
        ({"settings": {"teacher.mode": "online"}}, "teacher"),
        ({"data": 3}, "data"),
        ({"method": "kdd"}, "method.name"),
        ({"name": "a/b"}, "name"),
        ({"name": "a", "resume": "b"}, "name"),
        ({"resume": "gone"}, "name"),
    ],
)
def test_an_argument_is_refused(given: dict[str, Any], field: str, store: Path) -> None:
    with refused(field):
        distil(**given, store=store)


@pytest.mark.parametrize(
    "student",
    [
        TwoLayers(10, 8),  # trained weights would be in every trial
        lambda: 3,
        lambda: undefined,  # type: ignore[name-defined]  # noqa: F821
        3,
    ],
)
def test_a_student_is_refused(student: Any) -> None:
    with refused("student"):
        distil(student)


def test_a_function_that_returns_the_same_module_is_refused() -> None:
    module = TwoLayers(10, 8)
    with refused("student", value="the same module"):
        distil(lambda: module)


def test_a_network_with_other_outputs_is_refused_with_its_place(store: Path, data: od.Data) -> None:
    with refused("student.name") as caught:
        distil(lambda: TwoLayers(7, 8), data=data, store=store)
    assert "test_arguments.py:" in str(caught.value)


def test_the_name_of_a_network_identifies_its_structure() -> None:
    names = [
        od.teacher(build).network.section["name"]
        for build in (
            lambda: TwoLayers(10, 8),
            lambda: TwoLayers(10, 8),
            lambda: TwoLayers(10, 9),
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        )
    ]
    assert names[0] == names[1] and len(set(names)) == 3
    assert names[0].startswith("my/TwoLayers-")


def test_a_changed_forward_has_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(activation: Any) -> type[nn.Module]:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(64, 10)

            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                output: torch.Tensor = self.fc(activation(inputs.flatten(1)))
                return output

        return Net

    one, other = make(functional.relu), make(torch.zeros_like)
    factories = [lambda: one(), lambda: other(), lambda: make(functional.relu)()]
    names = [od.teacher(each).network.section["name"] for each in (*factories, one(), other())]
    assert len(set(names)) == 5 and all(name.startswith("my/Net-") for name in names)
    assert od.teacher(factories[0]).network.section["name"] == names[0]
    monkeypatch.setitem(globals(), "redefined", one)
    teacher = od.teacher(lambda: redefined())  # type: ignore[name-defined]  # noqa: F821
    assert as_teachers(teacher) == (teacher,)
    monkeypatch.setitem(globals(), "redefined", other)
    (again,) = as_teachers(teacher)
    assert again and again.network.section["name"] != teacher.network.section["name"]


def test_making_a_teacher_draws_no_random_number() -> None:
    before = torch.get_rng_state()
    od.teacher(lambda: TwoLayers(10, 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_teacher_is_refused() -> None:
    with refused("width"):
        od.teacher(lambda: TwoLayers(10, 8), width=3)
    with refused("epoch"):
        od.teacher(lambda: TwoLayers(10, 8), epoch=3)
    for network in (TwoLayers(20, 8), lambda: TwoLayers(20, 8)):
        with refused("classes", value=[1, 2], allowed="left out"):
            od.teacher(network, classes=[1, 2])


def test_data_of_arrays_and_of_a_data_set_are_the_same(arrays: Arrays) -> None:
    images, labels = arrays
    tensors = TensorDataset(torch.from_numpy(images)[:, None], torch.from_numpy(labels))
    one = od.data((images, labels), (images, labels))
    other = od.data(tensors, tensors)
    assert one.entry and other.entry
    assert one.entry.origin.identity == other.entry.origin.identity
    changed = images.copy()
    changed[0, 0, 0] += 1
    third = od.data((changed, labels), (images, labels))
    assert third.entry and third.entry.origin.identity != one.entry.origin.identity


def test_data_are_refused(arrays: Arrays) -> None:
    images, labels = arrays
    with refused("data[test]"):
        od.data((images, labels))
    with refused("augmentations"):
        od.data("digits", augmentations="crop")
    with refused("classes"):
        od.data("digits", classes=10)
    with refused("data[train]", allowed=(0, 4)):
        od.data((images, labels), (images, labels), classes=5)


def test_data_are_shown_without_markup(arrays: Arrays) -> None:
    images, labels = arrays
    given = od.data((images, labels), (images, labels))
    html = given._repr_html_()
    assert "300 training and 300 test images, 10 classes, 1x8x8" in repr(given)
    assert html.count("<") == 2, html


def test_results_need_a_store(tmp_path: Path) -> None:
    with refused("--store"):
        od.results(tmp_path / "gone")


def test_float_images_are_converted(arrays: Arrays) -> None:
    images, labels = arrays
    scaled = (images / np.float32(255), labels)
    one, other = od.data(scaled, scaled), od.data((images, labels), (images, labels))
    assert one.entry and other.entry
    assert one.entry.origin.identity == other.entry.origin.identity
