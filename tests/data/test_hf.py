"""Test Hugging Face data sets on disk: parquet files and saved data sets."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from data_made import SIDE, images
from PIL import Image
from pyarrow import parquet
from table_made import encode, write_parquet

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import PreflightError
from orchestrator.data import _hf_files as hf_files
from orchestrator.data import _hf_images as hf_images
from orchestrator.data import checks
from orchestrator.data._parts import channel_statistics
from orchestrator.data.dataset import Dataset
from orchestrator.data.prepare import describe, list_notes, prepare
from tests.refusal import ANY, refused

TRAIN, TEST = 60, 30


def parquet_folder(folder: Path, channels: int = 3) -> Path:
    """Write two training files and a test file; the labels are the numbers modulo 3."""
    for name, first, count in (
        ("train-00000-of-00002", 0, 40),
        ("train-00001-of-00002", 40, TRAIN - 40),
        ("test-00000-of-00001", TRAIN, TEST),
    ):
        labels = (np.arange(first, first + count) % 3).tolist()
        pixels = images(TRAIN + TEST, channels=channels)[first : first + count]
        write_parquet(folder / f"{name}.parquet", pixels, labels)
    return folder


def opened(store: Path, path: Path, **settings: Any) -> Dataset:
    data = Data(name="hf", path=path, **settings)
    before = describe(data, store, 0)
    dataset = Dataset.open(prepare(data, store, 0))
    assert (before.fingerprint, before.mean, before.std, before.shape) == (
        *(dataset.fingerprint, list(dataset.mean), list(dataset.std), dataset.shape),
    ), "a dry run describes what is prepared"
    return dataset


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_decoded_once_and_keep_their_pixels_and_labels(
    tmp_path: Path, channels: int
) -> None:
    path = parquet_folder(tmp_path / "data", channels)
    dataset = opened(tmp_path, path)
    pixels, numbers = images(TRAIN + TEST, channels=channels), []
    for part in (dataset.train, dataset.validation, dataset.test):
        for image, label in zip(part.inputs, part.labels.tolist(), strict=True):
            number = int(np.flatnonzero((pixels == image).all(axis=(1, 2, 3)))[0])
            numbers.append(number)
            assert label == number % 3
    assert sorted(numbers) == list(range(TRAIN + TEST)) and dataset.root is None
    assert dataset.shape == (channels, SIDE, SIDE) and dataset.classes == ("0", "1", "2")
    mean, std = channel_statistics(np.asarray(dataset.train.inputs))
    assert (list(dataset.mean), list(dataset.std)) == (mean, std)


def test_the_validation_part_may_follow_the_training_part(tmp_path: Path) -> None:
    path = parquet_folder(tmp_path / "data")
    plain = opened(tmp_path, path)
    both = opened(tmp_path, path, validation_in_training=True)
    expected = np.concatenate([plain.train.inputs, plain.validation.inputs])
    assert np.array_equal(both.train.inputs, expected) and both.mean == plain.mean


def test_another_size_takes_the_middle_square(tmp_path: Path) -> None:
    wide = np.zeros((24, 8, 12, 3), np.uint8)
    wide[:, :, 2:10] = 200
    labels = (np.arange(24) % 2).tolist()
    file = write_parquet(tmp_path / "data.parquet", wide, labels)
    dataset = opened(tmp_path, file, size=4)
    pixels = np.asarray(dataset.train.inputs)
    assert pixels.shape[1:] == (4, 4, 3) and (pixels[:, :, 1:3] == 200).all()
    assert (pixels[:, :, 0] == pixels[:, :, 3]).all() and pixels.min() > 150
    assert opened(tmp_path, file).shape == (3, 8, 12), "without a size the images keep theirs"


def test_statistics_of_many_images_are_those_of_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf_images, "MOST_SAMPLED", 10)
    dataset = opened(tmp_path, parquet_folder(tmp_path / "data"))
    index = np.linspace(0, len(dataset.train) - 1, 10).astype(int)
    assert list(dataset.mean) == channel_statistics(np.asarray(dataset.train.inputs)[index])[0]


def test_conversions_are_counted_once(tmp_path: Path) -> None:
    pixels = [encode(image) for image in images(24)]
    rgba = Image.new("RGBA", (SIDE, SIDE), (10, 20, 30, 100))
    rgba.save(tmp_path / "transparent.png")
    pixels[4] = (tmp_path / "transparent.png").read_bytes()
    labels = (np.arange(24) % 2).tolist()
    parquet.write_table(
        pyarrow.table({"image": pixels, "label": labels}), tmp_path / "data.parquet"
    )
    for together in (False, True):
        data = Data(
            name="hf",
            path=tmp_path / "data.parquet",
            validation_in_training=together,
            seed=int(together),
        )
        prepare(data, tmp_path, 0)
        notes = list_notes(data, describe(data, tmp_path, 0))
        assert notes["images"] == "transparency composited on grey: 1"


def features(**names: Any) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": names}}).encode()}


def test_class_labels_have_names_and_are_preferred_to_other_columns(tmp_path: Path) -> None:
    columns = {
        "photo": [encode(image) for image in images(24)],
        "number": list(range(24)),
        "kind": [number % 2 for number in range(24)],
    }
    metadata = features(
        photo={"_type": "Image"}, kind={"_type": "ClassLabel", "names": ["old", "new"]}
    )
    table = pyarrow.table(columns).replace_schema_metadata(metadata)
    parquet.write_table(table, tmp_path / "data.parquet")
    data = Data(name="hf", path=tmp_path / "data.parquet")
    dataset = opened(tmp_path, tmp_path / "data.parquet")
    assert dataset.classes == ("old", "new")
    assert list_notes(data, describe(data, tmp_path, 0))["not read"] == "columns: 1 (number)"


def test_names_become_classes_in_sorted_order(tmp_path: Path) -> None:
    labels = [("dog", "cat")[number % 2] for number in range(24)]
    dataset = opened(tmp_path, write_parquet(tmp_path / "data.parquet", images(24), labels))
    assert dataset.classes == ("cat", "dog")


LABELS = (np.arange(24) % 2).tolist()
REFUSED: dict[str, tuple[Any, dict[str, Any], dict[str, Any], tuple[Any, Any, Any]]] = {
    "several labels": (
        *([[0, 1]] * 24, {}, {}, ("data.label_column", "label", "one label for each image")),
    ),
    "two label columns": (
        *(LABELS, {"fine": LABELS}, {}, ("data.label_column", None, ("label", "fine"))),
    ),
    "an unknown column": (
        *(LABELS, {}, {"label_column": "lab"}),
        ("data.label_column", "lab", ("image", "label")),
    ),
    "labels as images": (
        *(LABELS, {}, {"image_column": "label"}),
        ("data.image_column", "label", ("image", "binary")),
    ),
    "fractions": (
        *([0.5] * 24, {}, {"label_column": "label"}),
        ("data.label_column", "label", ("classes", "numbers", "names")),
    ),
    "a missing label": ([None, *LABELS[1:]], {}, {}, ("data.path[train]", 1, 0)),
    "a negative label": ([-1, *LABELS[1:]], {}, {}, ("data.path[train]", -1, (0, 1))),
    "a class without images": (
        *([2 * label for label in LABELS], {}, {}),
        ("data.path[train]", "1", "at least one sample of every class"),
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=list(REFUSED))
def test_unusable_columns_are_refused(tmp_path: Path, case: Any) -> None:
    labels, columns, settings, refusal = case
    file = write_parquet(tmp_path / "data.parquet", images(24), labels, **columns)
    with refused(*refusal) as caught:
        describe(Data(name="hf", path=file, **settings), tmp_path, 0)
    assert "\n" not in str(caught.value)
    if labels[0] == [0, 1]:
        assert checks.MULTI_LABEL in str(caught.value)


def write_cells(file: Path, cells: list[Any]) -> Path:
    parquet.write_table(pyarrow.table({"image": cells, "label": LABELS}), file)
    return file


def test_unusable_images_are_refused_by_their_row(tmp_path: Path) -> None:
    cells = [{"bytes": encode(image), "path": None} for image in images(24)]
    grey = {"bytes": encode(images(1, channels=1)[0]), "path": None}
    large = {"bytes": encode(np.zeros((9, 9, 3), np.uint8)), "path": None}
    path = {"bytes": None, "path": "http://somewhere/a.png"}
    damaged = {"bytes": cells[5]["bytes"][:60], "path": None}  # type: ignore[index]
    cases: list[tuple[Any, list[Any], str, Any]] = [
        (path, cells, "data.path", "http://somewhere/a.png"),
        (damaged, cells, "data.path", ANY),
        (large, cells, "data.size", None),
        (cells[0], [grey] * 24, "data.path", 3),
    ]
    for number, (odd, others, field, value) in enumerate(cases):
        changed = [*others[:5], odd, *others[6:]]
        file = write_cells(tmp_path / f"{number}.parquet", changed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(hf_images, "MOST_SAMPLED", 2)  # the odd image is found when decoded
            with refused(field, value) as caught:
                prepare(Data(name="hf", path=file), tmp_path / "store", 0)
        assert "row 5 of the train part" in str(caught.value)
        assert not list((tmp_path / "store" / "data").glob("[!.]*"))


def test_files_without_splits_are_training_files_and_others_are_listed(tmp_path: Path) -> None:
    write_parquet(tmp_path / "given" / "0001.parquet", images(24), LABELS)
    (tmp_path / "given" / "README.md").write_text("x")
    data = Data(name="hf", path=tmp_path / "given")
    assert opened(tmp_path, tmp_path / "given").classes == ("0", "1")
    notes = list_notes(data, describe(data, tmp_path, 0))
    assert notes["not read"] == "splits and files: 1 (README.md)" and "test part" in notes


def test_unusable_folders_are_refused(tmp_path: Path) -> None:
    for number, names in enumerate(((), ("test.parquet",), ("train", "val", "validation"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names:
            write_parquet(folder / f"{name.removesuffix('.parquet')}.parquet", images(24), LABELS)
        field = ("data.path", "data.path[train]", "data.path[validation]")[number]
        with refused(field):
            describe(Data(name="hf", path=folder), tmp_path, 0)
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and nothing else")
    with refused("data.path", ANY, hf_files.LAYOUT):
        describe(Data(name="hf", path=tmp_path / "damaged.parquet"), tmp_path, 0)
    with refused("data.path", None, hf_files.LAYOUT):
        describe(Data(name="hf"), tmp_path, 0)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of save_to_disk with train, test and another split; the network is off."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network is used"))
    datasets.disable_progress_bars()
    kinds = datasets.Features(
        {
            "img": datasets.Image(),
            "fine": datasets.ClassLabel(names=["a", "b", "c"]),
            "coarse": datasets.ClassLabel(names=["u", "v"]),
        }
    )

    def rows(first: int, count: int) -> Any:
        numbers = range(first, first + count)
        pixels = images(TRAIN + TEST)[first : first + count]
        columns = {
            "img": [Image.fromarray(each) for each in pixels],
            "fine": [number % 3 for number in numbers],
            "coarse": [number % 2 for number in numbers],
        }
        return datasets.Dataset.from_dict(columns, features=kinds)

    parts = {"train": rows(0, TRAIN).shuffle(seed=1), "test": rows(TRAIN, TEST)}
    datasets.DatasetDict({**parts, "unsupervised": rows(0, 4)}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_saved_data_set_gives_what_its_parquet_files_give(saved: Path, tmp_path: Path) -> None:
    dataset = opened(tmp_path, saved, label_column="fine")
    assert np.array_equal(dataset.test.inputs, images(TRAIN + TEST)[TRAIN:])
    assert np.array_equal(dataset.test.labels, np.arange(TRAIN, TRAIN + TEST) % 3)
    assert dataset.classes == ("a", "b", "c") and len(dataset.train) + len(dataset.validation) == 60
    data = Data(name="hf", path=saved, label_column="fine")
    unread = list_notes(data, describe(data, tmp_path, 0))["not read"]
    assert unread == "columns: 1 (coarse); splits and files: 1 (unsupervised)"
    with refused("data.label_column", None, ("fine", "coarse")):
        describe(Data(name="hf", path=saved), tmp_path, 0)


def test_a_saved_data_set_needs_the_extra(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refused("data.path", error=PreflightError, allowed="pip install '.[hf]'"):
        describe(Data(name="hf", path=saved), saved.parent, 0)


def test_a_damaged_saved_data_set_is_refused(saved: Path) -> None:
    (saved / "train" / "state.json").write_text("{")
    with refused("data.path", ANY, hf_files.LAYOUT):
        describe(Data(name="hf", path=saved), saved.parent, 0)
