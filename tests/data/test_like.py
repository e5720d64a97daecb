"""Test `data.like`: the augmentation and the constants of a named data set."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from data_made import folder

from orchestrator.config.data_schema import Data, KnownName
from orchestrator.data._parts import channel_statistics
from orchestrator.data.dataset import Dataset
from orchestrator.data.datasets import DATASETS, load_digits
from orchestrator.data.prepare import describe, prepare
from orchestrator.data.preprocessing import AUTOMATIC, KNOWN, explain, resolve_augmentation
from orchestrator.data.views import Views
from tests.refusal import refused


def npz_of(file: Path, shape: tuple[int, int, int]) -> Path:
    """Write 40 training and 20 test images of noise of a shape (C, H, W)."""
    channels, height, width = shape
    draw, arrays = np.random.default_rng(0), dict[str, Any]()
    for part, count in (("train", 40), ("test", 20)):
        size = (count, height, width, channels)
        arrays[f"{part}_images"] = draw.integers(0, 256, size, dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count) % 2
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file


@pytest.mark.parametrize("name", get_args(KnownName))
def test_own_images_get_augmentation_and_constants_of_the_named_set(
    name: Any, tmp_path: Path
) -> None:
    known = KNOWN[name]
    file = npz_of(tmp_path / "own.npz", known.shape)
    plain, like = (Data(name="npz", path=file, like=each) for each in (None, name))
    summary = describe(like, tmp_path, 0)
    assert (tuple(summary.mean), tuple(summary.std)) == (known.mean, known.std)
    assert summary.augmentation == resolve_augmentation(like) == AUTOMATIC[name].policy
    dataset = Dataset.open(prepare(like, tmp_path, 0))
    assert Views.from_config(dataset, like, 0).policy == AUTOMATIC[name].policy
    lines = explain(like, summary)
    assert f"those of {name} (data.like)" in lines["normalisation"]
    assert f"chosen for {name} (data.like)" in lines["augmentation"]
    assert describe(plain, tmp_path, 0).fingerprint != summary.fingerprint


def test_explicit_settings_take_precedence(tmp_path: Path) -> None:
    file = npz_of(tmp_path / "own.npz", (1, 28, 28))
    data = Data(name="npz", path=file, like="MNIST", augmentation="none", mean=(0.5,), std=(0.25,))
    summary = describe(data, tmp_path, 0)
    assert summary.augmentation == "none" and (summary.mean, summary.std) == ([0.5], [0.25])
    assert "set by data.mean" in explain(data, summary)["normalisation"]


@pytest.mark.parametrize(("name", "shape"), [("MNIST", "1x28x28"), ("CIFAR10", "3x32x32")])
def test_images_of_another_shape_are_refused(name: Any, shape: str, tmp_path: Path) -> None:
    file = npz_of(tmp_path / "own.npz", (3, 28, 28))
    with refused("data.like", name, f"images of shape {shape}"):
        describe(Data(name="npz", path=file, like=name), tmp_path, 0)


def test_files_of_images_may_be_like_a_named_set(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", each=8)
    data = Data(name="folder", path=root, size=32, like="CIFAR100", validation=0.3)
    summary = describe(data, tmp_path, 0)
    assert tuple(summary.mean) == KNOWN["CIFAR100"].mean and summary.augmentation == "crop_flip"


def test_named_sets_are_like_no_other() -> None:
    assert set(KNOWN) == set(get_args(KnownName)) <= set(DATASETS)
    with pytest.raises(ValueError, match="no effect"):
        Data(name="CIFAR10", like="CIFAR100")
    for key, value in (("test_share", 0.3), ("image_column", "a"), ("label_column", "b")):
        with pytest.raises(ValueError, match="no effect"):
            Data(name="npz", **{key: value})  # type: ignore[arg-type]


def test_constants_of_the_digits_are_those_of_their_training_part() -> None:
    mean, std = channel_statistics(load_digits(Data(), Path()).train.inputs)
    assert KNOWN["digits"].mean == pytest.approx(mean, abs=5e-5)
    assert KNOWN["digits"].std == pytest.approx(std, abs=5e-5)
