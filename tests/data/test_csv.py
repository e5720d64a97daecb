"""Test data sets that a CSV file lists: parts, labels, refusals, and images as files."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from table_made import write_csv

from orchestrator.config.data_schema import Data
from orchestrator.data import checks
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.prepare import describe, list_notes, prepare
from orchestrator.data.views import Views
from tests.refusal import ANY, refused

NAMES = ("cat", "dog", "emu")
ROWS = [(f"images/{number}.png", NAMES[number % 3]) for number in range(45)]
SPLITS = ["train"] * 27 + ["val"] * 9 + ["test"] * 9
WITH_SPLITS = [(*row, split) for row, split in zip(ROWS, SPLITS, strict=True)]
ONE_LABEL = "one label for each image"


def config(file: Path, **settings: Any) -> Data:
    return Data(name="csv", path=file, size=8, **settings)


def paths(dataset: Dataset, part: str) -> list[str]:
    return [os.fsdecode(bytes(path)) for path in dataset.split(part).inputs]


def test_the_split_column_gives_the_parts_and_sorted_names_the_classes(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "given", WITH_SPLITS, "path,label,split")
    data = config(file)
    dataset = Dataset.open(prepare(data, tmp_path, 0))
    assert dataset.classes == NAMES and dataset.root == file.parent
    for part, split in (("train", "train"), ("validation", "val"), ("test", "test")):
        expected = [(path, NAMES.index(name)) for path, name, each in WITH_SPLITS if each == split]
        pairs = zip(paths(dataset, part), dataset.split(part).labels.tolist(), strict=True)
        assert list(pairs) == expected
    assert not list_notes(data, describe(data, tmp_path, 0))
    batches = Batches(dataset, Views.from_config(dataset, data, 0), 9, 0)
    images = [batch.inputs for batch in batches.train(0, 0)]
    assert len(images) == 3 and images[0].shape == (9, 3, 8, 8)


def test_without_a_split_column_a_stratified_test_part_is_cut_once_for_all_seeds(
    tmp_path: Path,
) -> None:
    file = write_csv(tmp_path / "given", ROWS)
    one, other = (
        Dataset.open(prepare(config(file), tmp_path / str(seed), seed)) for seed in (0, 1)
    )
    assert np.bincount(one.test.labels).tolist() == [3, 3, 3]
    assert paths(one, "test") == paths(other, "test") and paths(one, "train") != paths(
        other, "train"
    )
    parts = [path for part in ("train", "validation", "test") for path in paths(one, part)]
    assert sorted(parts) == sorted(path for path, _ in ROWS)
    larger = config(file, test_share=0.4)
    assert len(Dataset.open(prepare(larger, tmp_path, 0)).test) == 18
    assert "0.4 of the samples" in list_notes(larger, describe(larger, tmp_path, 0))["test part"]


def test_a_validation_part_alone_is_the_test_part(tmp_path: Path) -> None:
    rows = [(*row, split.replace("test", "train")) for row, split in zip(ROWS, SPLITS, strict=True)]
    data = config(write_csv(tmp_path / "given", rows, "path,label,split"))
    dataset = Dataset.open(prepare(data, tmp_path, 0))
    assert len(dataset.test) == 9 and "test part" in list_notes(data, describe(data, tmp_path, 0))


def test_numbers_are_class_numbers_and_tabs_quotes_and_other_columns_are_read(
    tmp_path: Path,
) -> None:
    rows = [(path, str(number % 2), "x") for number, (path, _) in enumerate(ROWS)]
    file = write_csv(tmp_path / "given", rows, "file\tclass\tremark")
    file.write_text("\ufeff" + file.read_text().replace("\n", "\r\n") + "\r\n", newline="")
    data = config(file, image_column="file", label_column="class")
    dataset = Dataset.open(prepare(data, tmp_path, 0))
    assert dataset.classes == ("0", "1") and len(dataset.test) == 9
    numbers = [int(Path(path).stem) % 2 for path in paths(dataset, "test")]
    assert numbers == dataset.test.labels.tolist()
    notes = list_notes(data, describe(data, tmp_path, 0))
    assert notes["not read"] == "columns of the file: 1 (remark)"


def test_a_changed_file_or_image_changes_the_fingerprint(tmp_path: Path) -> None:
    data = config(write_csv(tmp_path / "given", ROWS))
    prints = [describe(data, tmp_path, 0).fingerprint for _ in range(2)]
    os.utime(tmp_path / "given" / "images" / "3.png", (1, 1))
    prints.append(describe(data, tmp_path, 0).fingerprint)
    write_csv(tmp_path / "given", [*ROWS, ("images/new.png", "cat")])
    prints.append(describe(data, tmp_path, 0).fingerprint)
    assert prints[0] == prints[1] and len(set(prints)) == 3


REFUSED: dict[str, tuple[str, list[Any], str, Any, Any]] = {
    "no label column": ("path,class", ROWS, "data.label_column", "label", ("path", "class")),
    "a column twice": ("path,path", ROWS, "data.image_column", "path", ("path", "path")),
    "an empty label": ("path,label", [*ROWS, ("a.png", "")], "data.path", ("a.png", ""), ANY),
    "too few values": ("path,label", [*ROWS, ("a.png",)], "data.path", 1, 2),
    "several labels": ("path,label", [*ROWS, ("a.png", "cat;dog")], "data.path", ANY, ONE_LABEL),
    "labels by a bar": ("path,label", [*ROWS, ("a.png", "cat|dog")], "data.path", ANY, ONE_LABEL),
    "labels by a comma": (
        *("path,label", [*ROWS, ("a.png", '"cat, dog"')], "data.path", "cat, dog", ONE_LABEL),
    ),
    "an image twice": (
        *("path,label", [*ROWS, ("./images/3.png", "dog")], "data.path"),
        *("./images/3.png", "each image once"),
    ),
    "an unknown split": ("path,label,split", [(*ROWS[0], "dev")], "data.path", "dev", ANY),
    "no training rows": ("path,label,split", [(*ROWS[0], "test")], "data.path[train]", 0, ANY),
    "a class that training lacks": (
        *("path,label,split", [*WITH_SPLITS, ("a.png", "fox", "test")]),
        *("data.path[test]", "fox", NAMES),
    ),
    "a class without test images": (
        *("path,label,split", [*WITH_SPLITS[:-9], (*ROWS[36], "test")], "data.path[test]"),
        *("dog", "at least one sample of every class"),
    ),
    "a number beyond the images": (
        *("path,label", [(path, "99") for path, _ in ROWS], "data.path[train]"),
        *(99, (0, 44)),
    ),
    "a class of one image": (
        *("path,label", [*ROWS, ("a.png", "fox")], "data.path[train]"),
        *("fox", "at least one sample of every class"),
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=list(REFUSED))
def test_unusable_files_are_refused(tmp_path: Path, case: Any) -> None:
    header, rows, field, value, allowed = case
    data = config(write_csv(tmp_path / "given", rows, header))
    with refused(field, value, allowed) as caught:
        describe(data, tmp_path / "store", 0)
    assert "\n" not in str(caught.value) and "data.csv" in str(caught.value)


def test_a_comma_in_a_name_is_allowed(tmp_path: Path) -> None:
    rows = [(path, f'"{name}, wild"') for path, name in ROWS]
    data = describe(config(write_csv(tmp_path, rows)), tmp_path / "store", 0)
    assert list(data.classes) == [f"{name}, wild" for name in NAMES]


def test_several_labels_are_refused_with_what_is_supported(tmp_path: Path) -> None:
    file = write_csv(tmp_path, [*ROWS, (ROWS[0][0], "emu")])
    with refused("data.path", ROWS[0][0]) as caught:
        describe(config(file), tmp_path / "store", 0)
    assert checks.MULTI_LABEL in str(caught.value) and "lines 2 and 47" in str(caught.value)


def test_missing_and_damaged_images_are_named(tmp_path: Path) -> None:
    data = config(write_csv(tmp_path / "given", ROWS))
    (tmp_path / "given" / "images" / "3.png").write_bytes(b"x")
    assert describe(data, tmp_path, 0).sizes.test == 9, "a dry run decodes nothing"
    with refused(str(tmp_path / "given" / "images" / "3.png")):
        prepare(data, tmp_path, 0)
    for number in (5, 7):
        (tmp_path / "given" / "images" / f"{number}.png").unlink()
    with refused("data.path", "images/5.png", "files that exist") as caught:
        describe(data, tmp_path, 0)
    assert "2 of 45 images" in str(caught.value) and "line 9" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "value"), [(b"path,label\n\xff,a\n", ANY), (b'path,label\n"a,b\n', ANY)]
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, value: Any) -> None:
    (tmp_path / "data.csv").write_bytes(content)
    with refused("data.path", value, "a CSV file in UTF-8"):
        describe(config(tmp_path / "data.csv"), tmp_path / "store", 0)


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_a_test_share_without_every_class_is_refused(tmp_path: Path, share: float) -> None:
    file = write_csv(tmp_path / "given", ROWS)
    with refused("data.test_share", share, (3 / 45, 42 / 45)):
        describe(config(file, test_share=share), tmp_path, 0)


def test_settings_that_would_be_ignored_are_refused(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "given", WITH_SPLITS, "path,label,split")
    with refused("data.test_share", 0.5, None):
        describe(config(file, test_share=0.5), tmp_path, 0)
    with refused("data.size", None, int):
        describe(Data(name="csv", path=file), tmp_path, 0)
