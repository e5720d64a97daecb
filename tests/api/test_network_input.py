"""Give functions and modules whose images have another size or normalisation than the data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orchestrator import api as od
from orchestrator.api._console import make_console, make_note_printer
from tests.refusal import refused

SIDE, MEAN, STD = 16, [0.4], [0.3]
QUIET: dict[str, Any] = {"batch_size": 64, "epochs": 1}


class Large(nn.Module):
    """A network for grey images of 16x16."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(SIDE * SIDE, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.fc(inputs.flatten(1))
        return output


class Published(Large):
    """A network with the description of its weights that timm writes."""

    pretrained_cfg: dict[str, Any] = {  # noqa: RUF012  # as in timm
        "input_size": (1, SIDE, SIDE),
        "mean": tuple(MEAN),
        "std": tuple(STD),
    }


def network_of(result: od.Result) -> dict[str, Any]:
    """Return the section of the teacher's network."""
    section: dict[str, Any] = result.settings["teacher"]["network"]
    return {key: section[key] for key in ("input_size", "mean", "std") if key in section}


def test_functions_have_their_own_input(store: Path, data: od.Data, tmp_path: Path) -> None:
    module = Large()
    torch.save(module.state_dict(), tmp_path / "large.pth")
    teacher = od.teacher(Large, tmp_path / "large.pth", input_size=SIDE, mean=MEAN, std=STD)
    student = {"name": Large, "input_size": SIDE}
    result = od.distil(student, teacher, data, "kd", store=store, progress=False, **QUIET)
    assert network_of(result) == {"input_size": SIDE, "mean": MEAN, "std": STD}
    assert result.settings["student"]["input_size"] == SIDE
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8)
    assert result.predict(images).shape == (4, 10)


def test_a_value_of_the_settings_is_that_of_the_teacher(store: Path, data: od.Data) -> None:
    settings = {"teacher.network.input_size": SIDE}
    result = od.distil(
        "mlp", Large(), data, "kd", store=store, settings=settings, progress=False, **QUIET
    )
    assert network_of(result) == {"input_size": SIDE}
    with refused("input_size"):
        od.distil("mlp", Large(), data, "kd", store=store, progress=False, **QUIET)


def test_given_weights_have_the_input_of_their_description(
    store: Path, data: od.Data, capsys: pytest.CaptureFixture[str]
) -> None:
    result = od.distil("mlp", Published(), data, "kd", store=store, **QUIET)
    assert network_of(result) == {"input_size": SIDE, "mean": MEAN, "std": STD}
    assert "pretrained_cfg" in capsys.readouterr().err
    teacher = od.teacher(Published(), mean=None, std=None)
    plain = od.distil("mlp", teacher, data, "kd", store=store, name="plain", **QUIET)
    assert network_of(plain) == {"input_size": SIDE}
    resumed = od.distil("mlp", teacher, data, "kd", store=store, resume="plain", **QUIET)
    assert resumed.metrics == plain.metrics


def test_a_note_is_a_warning_if_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="pretrained_cfg"):
        make_note_printer(make_console(progress=False))("mean of its pretrained_cfg")
    assert capsys.readouterr().err == ""


def test_a_network_for_another_number_of_channels_is_refused(store: Path, data: od.Data) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))

    with refused("input_size", (1, 8, 8), (3, 8, 8)) as caught:
        od.distil("mlp", build(), data, "kd", store=store, progress=False, **QUIET)
    assert "channels" in str(caught.value)
    with refused("student.input_size"):
        od.distil(build, None, data, "cross_entropy", store=store, progress=False, **QUIET)


def test_an_input_is_given_once() -> None:
    with refused("input_size"):
        od.teacher({"name": Large, "input_size": SIDE}, input_size=SIDE)
    with refused("teacher", ("width",)):
        od.teacher({"name": Large, "width": 3})
