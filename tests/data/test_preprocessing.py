"""Test augmentation and normalisation: the applied ones, and their lines in the plan."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_made import arrays, npz
from rich.console import Console

from orchestrator.config.data_schema import AUGMENTATIONS, Data
from orchestrator.config.loader import load
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.datasets import DATASETS
from orchestrator.data.prepare import prepare
from orchestrator.data.preprocessing import (
    AUTOMATIC,
    IMAGENET,
    choose_normalization,
    explain,
    resolve_augmentation,
    shift_pixels,
)
from orchestrator.data.views import Views
from orchestrator.store.store import Store
from orchestrator.sweep.preflight.preflight import show_plan
from tests.data_summary import data_summary
from tests.refusal import refused

SUMMARY = data_summary(
    shape=(3, 32, 32), mean=[0.5, 0.25, 0.125], std=[0.2, 0.2, 0.25], augmentation=""
)


def test_every_data_set_has_an_automatic_policy_and_no_digit_is_mirrored() -> None:
    assert set(AUTOMATIC) == set(DATASETS)
    assert {each.policy for each in AUTOMATIC.values()} <= set(AUGMENTATIONS) - {"auto"}
    assert all(each.reason for each in AUTOMATIC.values())
    assert not [name for name in ("digits", "MNIST", "SVHN") if "flip" in AUTOMATIC[name].policy]


@pytest.mark.parametrize("name", sorted(DATASETS))
@pytest.mark.parametrize("policy", ["auto", "none", "crop", "crop_flip", "resized_crop_flip"])
def test_the_plan_names_the_policy_its_reason_and_the_setting(name: str, policy: Any) -> None:
    data = Data(name=name, augmentation=policy)
    automatic, reason = AUTOMATIC[name]
    applies = automatic if policy == "auto" else policy
    assert resolve_augmentation(data) == resolve_augmentation(data, SUMMARY) == applies
    assert resolve_augmentation(data, replace(SUMMARY, augmentation="crop")) == (
        "crop" if policy == "auto" else policy
    ), "the run keeps its policy"
    line = explain(data, SUMMARY)["augmentation"]
    assert line.startswith(f"{applies} (") and "data.augmentation" in line and reason in line
    assert ("set by data.augmentation; auto is" in line) == (applies != automatic)
    assert ("by up to 4 pixels" in line) == applies.startswith("crop") and (
        "mirrored" in line.partition(")")[0]
    ) == ("flip" in applies)


@pytest.mark.parametrize(("side", "most"), [(7, 0), (8, 1), (28, 3), (32, 4)])
def test_the_explained_shift_is_the_drawn_shift(side: int, most: int) -> None:
    views = Views("crop", 0, 500, shift_pixels((1, side, side)))
    places = views.augmentation_params(0, side, side)
    assert places is not None
    down, right = places // (side + 2 * most), places % (side + 2 * most)
    assert {int(down.min()), int(right.min())} == {0} and {int(down.max()), int(right.max())} == {
        2 * most
    }


@pytest.mark.parametrize(
    ("data", "root", "fragments"),
    [
        (
            Data(),
            None,
            (
                "mean [0.5, 0.25, 0.125], std [0.2, 0.2, 0.25]",
                "those of the training images",
                "set data.mean and data.std",
            ),
        ),
        (Data(name="folder"), "images", ("those of ImageNet", "set data.mean and data.std")),
        (Data(mean=(0.5,) * 3, std=(0.2,) * 3), None, ("set by data.mean and data.std",)),
    ],
)
def test_the_plan_names_the_normalisation_and_its_source(
    data: Data, root: str | None, fragments: tuple[str, ...]
) -> None:
    line = explain(data, replace(SUMMARY, root=root))["normalisation"]
    assert all(part in line for part in fragments), line


def test_normalization_prefers_settings_then_statistics_then_imagenet() -> None:
    own = ([0.1], [0.2])
    assert (
        choose_normalization(Data(), 1, own) == own
        and choose_normalization(Data(), 3, None) == IMAGENET
    )
    assert choose_normalization(Data(mean=(0.3,), std=(0.4,)), 1, own) == ([0.3], [0.4])
    with refused("data.mean", (0.3,), "3 values"):
        choose_normalization(Data(mean=(0.3,), std=(0.4,)), 3, None)


@pytest.mark.parametrize(
    ("pairs", "field", "value"),
    [
        (["data.mean=[0.5]"], "data.mean", (0.5,)),
        (["data.std=[0.5]"], "data.mean", None),
        (["data.mean=[0.5]", "data.std=[0.5, 0.5]"], "data.mean", (0.5,)),
        (["data.mean=[]", "data.std=[]"], "data.mean", ()),
        (["data.mean=[0.5]", "data.std=[0]"], "data.std.0", 0),
        (["data.mean=[127.5]", "data.std=[1]"], "data.mean.0", 127.5),
    ],
)
def test_a_normalisation_with_a_wrong_number_of_values_is_refused(
    pairs: list[str], field: str, value: object
) -> None:
    with refused(field, value):
        load(None, pairs)


def test_a_set_normalisation_is_applied_and_has_a_separate_folder(tmp_path: Path) -> None:
    file = npz(tmp_path)
    config = Data(name="npz", path=file, mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 0.25))
    folder = prepare(config, tmp_path, 0)
    assert folder != prepare(Data(name="npz", path=file), tmp_path, 0)
    dataset = Dataset.open(folder)
    made = next(
        iter(Batches(dataset, Views.from_config(dataset, config, 0), 8, 0).iterate_in_order("test"))
    )
    pixels = np.asarray(arrays()["test_images"][: len(made.index)], dtype=np.float64) / 255
    expected = (pixels - np.array([0.5, 0.25, 0.0])) / np.array([0.5, 1.0, 0.25])
    torch.testing.assert_close(
        made.inputs, torch.from_numpy(expected.transpose(0, 3, 1, 2)).float(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("kind", ["sweep", "train", "teacher"])
def test_a_dry_run_explains_augmentation_normalisation_and_automatic_settings(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_plan(Store(tmp_path), load(None, []), kind, True, Console(width=300))
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["augmentation"].startswith("none (unchanged images): chosen for digits, as ")
    assert (
        lines["normalisation"].startswith("mean [0.306")
        and "those of the training images" in lines["normalisation"]
    )
    left = [
        "teacher.training.precision",
        "teacher.precision",
        "teacher.training.channels_last = false for mlp",
        "data.views = 1 (",
    ]
    left += (
        []
        if kind == "teacher"
        else ["training.precision = ", "; training.channels_last = false for mlp", "tracking.uri"]
    )
    assert all(key in lines["automatic"] for key in left), lines["automatic"]
