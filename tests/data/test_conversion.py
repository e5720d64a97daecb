"""Test the conversion of Python objects to the parts of a data source."""

import io
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import Table, parquet
from torch.utils.data import Dataset, TensorDataset

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError
from orchestrator.data._hf_files import open_source
from orchestrator.data._hf_images import TableImages
from orchestrator.data.conversion import convert_dataset
from tests.refusal import ANY, refused

COUNT = 12
LABELS = np.arange(COUNT) % 3
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 5, 3), dtype=np.uint8)
PAIR = (IMAGES, LABELS)


class Listed(Dataset[Any]):
    """A map-style data set of given items."""

    def __init__(self, items: list[Any], classes: list[str] | None = None) -> None:
        self.items = items
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def listed(images: Any, labels: Any = LABELS, **options: Any) -> Listed:
    return Listed(list(zip(images, labels, strict=True)), **options)


FLOATS = IMAGES.astype(np.float32) / 255
EQUAL: dict[str, Any] = {
    "arrays": PAIR,
    "list of arrays": [IMAGES, LABELS],
    "floats": (FLOATS, LABELS),
    "column of labels": (IMAGES, LABELS[:, None]),
    "channels first": (IMAGES.transpose(0, 3, 1, 2), LABELS),
    "tensors": (torch.from_numpy(FLOATS).permute(0, 3, 1, 2), torch.from_numpy(LABELS)),
    "items of arrays": listed(IMAGES),
    "items of tensors": TensorDataset(
        torch.from_numpy(FLOATS).permute(0, 3, 1, 2), torch.from_numpy(LABELS)
    ),
    "items of pictures": listed([Image.fromarray(image) for image in IMAGES]),
    "labels of one element": listed(IMAGES, torch.from_numpy(LABELS)[:, None]),
}


@pytest.mark.parametrize("form", EQUAL)
def test_every_form_of_the_same_images_gives_the_same_arrays(form: str, tmp_path: Path) -> None:
    parts = convert_dataset(EQUAL[form], PAIR, classes=3, folder=tmp_path)
    np.testing.assert_array_equal(parts.train.inputs, IMAGES)
    np.testing.assert_array_equal(parts.train.labels, LABELS)
    assert parts.train.inputs.dtype == np.uint8 and parts.train.labels.dtype == np.int64
    assert parts.classes == ("0", "1", "2") and parts.validation is None
    assert not os.listdir(tmp_path), "the file of a mapping has no name"


def test_grey_images_get_a_channel() -> None:
    grey = IMAGES[..., 0]
    for part in ((grey, LABELS), listed([Image.fromarray(image) for image in grey])):
        assert convert_dataset(part, part).train.inputs.shape == (COUNT, 6, 5, 1)


def test_items_are_read_into_a_file(tmp_path: Path) -> None:
    train = convert_dataset(listed(IMAGES), PAIR, folder=tmp_path / "new").train
    assert isinstance(train.inputs, np.memmap)
    assert isinstance(convert_dataset(PAIR, PAIR).train.inputs, np.ndarray)


def test_pictures_of_different_sizes_are_resized() -> None:
    sides = [(8, 8), (20, 12), (12, 20)]
    pictures = [Image.new("RGB", sides[number % 3], (number, 0, 0)) for number in range(COUNT)]
    parts = convert_dataset(listed(pictures), listed(pictures), size=8)
    assert parts.train.inputs.shape == (COUNT, 8, 8, 3)
    assert [int(image[4, 4, 0]) for image in parts.train.inputs] == list(range(COUNT))
    with refused("data[train]", (12, 20, 3), (8, 8, 3)) as caught:
        convert_dataset(listed(pictures), listed(pictures))
    assert "data.size" in str(caught.value)


def random_picture(mode: str, side: tuple[int, int], seed: int) -> Image.Image:
    random = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 2**16, side[::-1], dtype=np.uint16))
    bands = (
        random.integers(0, 256, side[::-1], dtype=np.uint8)
        for _ in Image.new(mode, (1, 1)).getbands()
    )
    return Image.merge(mode, [Image.fromarray(band) for band in bands])


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "RGB", "RGBA"])
def test_pictures_and_their_files_in_a_table_give_the_same_pixels(
    mode: str, tmp_path: Path
) -> None:
    sides = [(8, 8), (20, 12), (12, 21)]
    pictures = [random_picture(mode, sides[number % 3], number) for number in range(COUNT)]
    files = []
    for picture in pictures:
        picture.save(stream := io.BytesIO(), "PNG")
        files.append(stream.getvalue())
    parquet.write_table(Table.from_pydict({"image": files}), tmp_path / "data.parquet")
    tables = open_source(Data(name="hf", path=tmp_path / "data.parquet")).tables
    notes = Counter[str]()
    decoded = TableImages("", tables, "image", 8).decode(np.arange(COUNT), notes)
    parts = convert_dataset(listed(pictures), listed(pictures), size=8)
    np.testing.assert_array_equal(parts.train.inputs, np.concatenate(list(decoded)))
    assert parts.converted == {name: 2 * count for name, count in notes.items()}
    assert bool(notes) == (mode in ("LA", "I;16", "RGBA"))


def test_pictures_without_a_defined_range_are_refused() -> None:
    for mode in ("I", "F"):
        with refused("data[train]", mode, ("L", "RGB")):
            convert_dataset(listed([Image.new(mode, (4, 4))] * COUNT), PAIR)


def test_classes_come_from_the_argument_or_the_data_set() -> None:
    names = ["cat", "dog", "owl"]
    assert convert_dataset(listed(IMAGES, classes=names), PAIR).classes == tuple(names)
    assert convert_dataset(PAIR, PAIR, classes=names).classes == tuple(names)
    assert convert_dataset(PAIR, PAIR, classes=5).classes == ("0", "1", "2", "3", "4")
    assert convert_dataset(PAIR, PAIR).classes == ("0", "1", "2")
    with refused("data[train]", 2, (0, 1)):
        convert_dataset(PAIR, PAIR, classes=2)
    with refused("classes[1]", "a"):
        convert_dataset(PAIR, PAIR, classes=["a", "a", "b"])


def test_validation_is_a_part_of_its_own() -> None:
    parts = convert_dataset(PAIR, PAIR, validation=(IMAGES[:3], LABELS[:3]))
    assert parts.validation is not None and len(parts.validation) == 3


class Flipped(Listed):
    """A data set with a random transform."""

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return (image[:, ::-1] if torch.rand(()) < 0.5 else image), label


def test_a_random_transform_is_refused() -> None:
    torch.manual_seed(0)
    items = list(zip(IMAGES, LABELS, strict=True))
    with refused("data[train]", allowed="the same sample at every reading"):
        convert_dataset(Flipped(items), PAIR)
    with refused("data[test]", allowed="the same sample at every reading"):
        convert_dataset(Listed(items), Flipped(items))


MANY_LABELS = np.eye(COUNT, 3, dtype=np.int64)


@pytest.mark.parametrize(
    ("train", "value"),
    [
        ((IMAGES, MANY_LABELS), (COUNT, 3)),
        (listed(IMAGES, MANY_LABELS), (3,)),
        ((IMAGES, LABELS - 1), -1),
        ((IMAGES, LABELS * 100), ANY),
        ((IMAGES, LABELS.astype(np.float32)), ANY),
        ((IMAGES, LABELS[:-1]), ANY),
        (listed(IMAGES, [str(label) for label in LABELS]), ANY),
        ((FLOATS * 3 - 1, LABELS), ANY),
        ((np.full_like(FLOATS, np.nan), LABELS), ANY),
        ((IMAGES.astype(np.int64), LABELS), "int64"),
        (listed([image[: 3 + number % 2] for number, image in enumerate(IMAGES)]), ANY),
        (listed(["text"] * COUNT), "str"),
        (Listed(list(IMAGES)), ANY),
        (Listed([{"image": image, "label": 0} for image in IMAGES]), ANY),
        (Listed([]), 0),
        ((IMAGES[:0], LABELS[:0]), 0),
        (iter([]), ANY),
        (None, ANY),
        ((IMAGES[:, :, :4], LABELS), ANY),
    ],
)
def test_a_part_that_cannot_be_used_is_refused_in_one_sentence(train: Any, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        convert_dataset(train, PAIR)
    error: Any = caught.value
    assert error.field.startswith("data[") and "\n" not in str(error)
    assert value is ANY or error.value == value


def test_rounded_floats_are_counted() -> None:
    assert convert_dataset(PAIR, PAIR).converted == {}
    floats = listed(FLOATS)
    found = convert_dataset(floats, (FLOATS, LABELS), validation=PAIR)
    assert found.converted == {"floats rounded to 255 levels": 2 * COUNT}
