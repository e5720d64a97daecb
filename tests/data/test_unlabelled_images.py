"""Test training images without a label: in a file or folder, beside labelled ones or alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_made import CLASSES, arrays, folder, identities, images, npz, opened
from PIL import Image

from orchestrator.config.data_schema import Data, Limit
from orchestrator.data._listing import LAYOUT
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset, read_summary
from orchestrator.data.prepare import prepare
from orchestrator.data.views import Views
from tests.refusal import refused

EXTRA = images(30, first=500)
ALONE: dict[str, Any] = {
    "train_images": None,
    "train_labels": None,
    "val_images": images(20, first=300),
    "val_labels": np.arange(20) % CLASSES,
    "unlabelled_images": EXTRA,
}


def add_unlabelled(root: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (root / "unlabelled" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 20, 3), 40 * number, np.uint8)).save(
            root / "unlabelled" / name
        )


def test_arrays_follow_the_labelled_samples_and_leave_the_cuts_as_they_are(tmp_path: Path) -> None:
    plain = opened(tmp_path, npz(tmp_path))
    more = opened(tmp_path, npz(tmp_path, unlabelled_images=EXTRA))
    size = len(plain.train)
    assert np.array_equal(more.train.inputs[:size], plain.train.inputs)
    assert np.array_equal(more.train.labels[:size], plain.train.labels)
    assert np.array_equal(more.train.inputs[size:], EXTRA)
    assert (more.train.labels[size:] == -1).all() and (more.clean_labels[size:] == -1).all()
    for part in ("validation", "test"):
        assert np.array_equal(more.split(part).inputs, plain.split(part).inputs)
    assert np.array_equal(more.labelled().train.inputs, plain.train.inputs)


def test_arrays_without_labels_in_training(tmp_path: Path) -> None:
    alone = opened(tmp_path, npz(tmp_path, **ALONE))
    assert identities(alone.train.inputs) == identities(EXTRA)
    assert (alone.train.labels == -1).all() and len(alone.classes) == CLASSES
    assert len(alone.validation) == 20 and (alone.validation.labels >= 0).all()
    mean = EXTRA.reshape(-1, 3).mean(0) / 255
    np.testing.assert_allclose(alone.mean, mean, rtol=1e-6)


def test_an_epoch_takes_every_unlabelled_image_once(tmp_path: Path) -> None:
    alone = opened(tmp_path, npz(tmp_path, **ALONE))
    made = Batches(alone, Views("none", 0, 30, 1), 10, 0, labelled_share=0.25)
    taken = [index for batch in made.train(0, None) for index in batch.index.tolist()]
    assert sorted(taken) == list(range(30)) and made.labelled == 0


def test_all_labels_hidden_are_the_same_images(tmp_path: Path) -> None:
    file = npz(tmp_path)
    hidden = opened(tmp_path, file, labelled=0)
    assert np.array_equal(hidden.train.inputs, opened(tmp_path, file).train.inputs)
    assert (hidden.train.labels == -1).all()


def test_folder_of_unlabelled_images_at_any_depth(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    plain = prepare(Data(name="folder", path=root, size=8), tmp_path, 0)
    add_unlabelled(root, "a.png", "deep/er/b.png")
    target = prepare(Data(name="folder", path=root, size=8), tmp_path, 0)
    assert target != plain
    train, before = Dataset.open(target).train, Dataset.open(plain).train
    size = len(before)
    assert train.inputs[:size].tolist() == before.inputs.tolist()
    assert train.inputs[size:].tolist() == [b"unlabelled/a.png", b"unlabelled/deep/er/b.png"]
    assert train.labels[size:].tolist() == [-1, -1]
    summary = read_summary(target)
    assert summary.labelled == size and summary.sizes.train == size + 2


def test_folder_without_labels_in_training(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", splits=("val", "test"))
    add_unlabelled(root, "a.png", "b.png")
    alone = Dataset.open(prepare(Data(name="folder", path=root, size=8), tmp_path, 0))
    assert alone.classes == ("cat", "dog") and alone.train.labels.tolist() == [-1, -1]
    assert len(alone.validation) == len(alone.test) == 12


def test_folder_without_labels_needs_images_and_both_other_parts(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", splits=("val", "test"))
    (root / "unlabelled").mkdir()
    with refused(str(root / "unlabelled"), 0, (1, None)):
        prepare(Data(name="folder", path=root, size=8), tmp_path, 0)
    other = folder(tmp_path / "other", splits=("test",))
    add_unlabelled(other, "a.png")
    with refused("data.path[train]", None, LAYOUT):
        prepare(Data(name="folder", path=other, size=8), tmp_path, 0)


def test_damaged_unlabelled_image_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    add_unlabelled(root, "a.png")
    (root / "unlabelled" / "b.png").write_bytes(b"no image")
    with refused(str(root / "unlabelled" / "b.png")):
        prepare(Data(name="folder", path=root, size=8), tmp_path, 0)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"unlabelled_images": EXTRA[:, :4]}, "data.path[unlabelled]"),
        ({"unlabelled_images": EXTRA.astype(np.float32)}, "data.path[unlabelled_images]"),
        ({**ALONE, "val_images": None, "val_labels": None}, "data.path"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    changed: dict[str, Any], field: str, tmp_path: Path
) -> None:
    with refused(field):
        opened(tmp_path, npz(tmp_path, **changed))
    assert set(arrays()) == {"train_images", "train_labels", "test_images", "test_labels"}


def test_settings_of_labelled_samples_are_refused(tmp_path: Path) -> None:
    more = npz(tmp_path, unlabelled_images=EXTRA)
    with refused("data.sampling", "balanced", ("uniform",)):
        opened(tmp_path, more, sampling="balanced")
    alone = npz(tmp_path, **ALONE)
    with refused("data.limit.train", 10, None):
        prepare(Data(name="npz", path=alone, limit=Limit(train=10)), tmp_path, 0)
