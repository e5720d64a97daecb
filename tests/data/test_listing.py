"""Test the list of a folder's files: read files with classes, and counts of all others."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from data_made import folder
from PIL import Image
from rich.console import Console

from orchestrator.config.data_schema import Data
from orchestrator.config.loader import build
from orchestrator.data._listing import LAYOUT, SUFFIXES, list_images, list_kinds
from orchestrator.data.dataset import Dataset
from orchestrator.data.decoding import FORMATS
from orchestrator.data.prepare import describe, list_notes, prepare
from orchestrator.store.store import Store
from orchestrator.sweep.preflight.preflight import prepare_run, show_plan
from tests.refusal import refused


def image(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8))
    picture.save(file, "JPEG" if file.suffix == ".jfif" else None)


def config(root: Path) -> Data:
    return Data(name="folder", path=root, size=8, validation=0.34)


def test_images_at_any_depth_belong_to_their_class(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    for number in range(4):
        image(root / "train" / "cat" / "session2" / "morning" / f"{number}.JPEG")
    data = Dataset.open(prepare(config(root), tmp_path, 0))
    paths = {bytes(path) for part in ("train", "validation") for path in data.split(part).inputs}
    assert {
        f"train/cat/session2/morning/{number}.JPEG".encode() for number in range(4)
    } < paths and len(paths) == 16
    labels = {
        bytes(path): label for path, label in zip(data.train.inputs, data.train.labels, strict=True)
    }
    assert all(label == (path.split(b"/")[1] == b"dog") for path, label in labels.items())


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_every_usual_name_of_the_validation_folder_is_read(tmp_path: Path, name: str) -> None:
    both = list_images(folder(tmp_path / "both", ("train", name, "test")))
    assert both.splits == {"train": "train", "validation": name, "test": "test"}
    alone = list_images(folder(tmp_path / "alone", ("train", name)))
    assert alone.splits == {"train": "train", "test": name}
    assert alone.images["test"]["cat"] == [f"{name}/cat/{number}.png" for number in range(6)]


def test_unread_files_are_listed_with_counts_and_have_no_effect(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    before = describe(config(root), tmp_path / "store", 0)
    assert not list_notes(config(root), before)
    for hidden in (
        "train/cat/._0.png",
        "train/dog/._1.png",
        "test/cat/.DS_Store",
        "train/dog/Thumbs.db",
        "._train",
    ):
        (root / hidden).write_bytes(b"x")
    for file in ("train/cat/a.txt", "train/cat/b.TXT", "test/dog/c.heic", "README"):
        (root / file).write_bytes(b"x")
    for file in (
        "train/stray.png",
        "top.png",
        "holdout/cat/1.png",
        "holdout/cat/2.png",
        "__MACOSX/train/cat/._1.png",
    ):
        image(root / file)
    for name in ("cat", "dog"):
        image(root / "train" / name / ".ipynb_checkpoints" / "0-checkpoint.png")
    (root / "train" / "__MACOSX").mkdir()
    after = describe(config(root), tmp_path / "store", 0)
    unread = list_notes(config(root), after)["not read"].split("; ")
    assert set(unread) == {
        "hidden or system files: 5 (such as ._train)",
        "files of .txt: 2 (such as train/cat/a.txt)",
        "files of .heic: 1 (test/dog/c.heic)",
        "files without a suffix: 1 (README)",
        "images in train/ outside its class folders: 1 (train/stray.png)",
        "images outside the parts: 1 (top.png)",
        "folder holdout/: 2 files",
        "2 folders __MACOSX/: 1 files",
        "2 folders .ipynb_checkpoints/: 2 files",
    }
    assert after == before
    assert prepare(config(root), tmp_path / "store", 0).name == before.fingerprint, (
        "unread files do not change the data"
    )


def test_links_are_followed_once_and_broken_links_are_listed(tmp_path: Path) -> None:
    root, elsewhere = folder(tmp_path / "images"), tmp_path / "elsewhere"
    image(elsewhere / "a.png")
    image(root / "train" / "cat" / "more" / "b.png")
    links = {
        "far": str(elsewhere),
        "again": "more",
        "up": "..",
        "root": "../..",
        "broken.png": "nowhere.png",
        "itself.png": "itself.png",
    }
    for name, target in links.items():
        os.symlink(target, root / "train" / "cat" / name)
    listing = list_images(root)
    expected = [
        f"train/cat/{name}"
        for name in (*(f"{number}.png" for number in range(6)), "far/a.png", "more/b.png")
    ]
    assert listing.images["train"]["cat"] == expected
    assert listing.unread.in_words() == [
        "links to folders that are already read: 3 (such as train/cat/again)",
        "broken links or special files: 2 (such as train/cat/broken.png)",
    ]


def test_a_linked_class_folder_keeps_its_label(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    for split in ("train", "test"):
        (root / split / "cat").rename(tmp_path / f"cats-{split}")
        os.symlink(tmp_path / f"cats-{split}", root / split / "cat")
    assert list_images(root).classes == ("cat", "dog")


def test_every_suffix_belongs_to_a_supported_format() -> None:
    """By Pillow's own table; MPO is a JPEG with previews behind it."""
    Image.init()
    formats = {Image.registered_extensions()[suffix] for suffix in SUFFIXES}
    assert formats == {*FORMATS, "MPO"}
    assert {
        suffix for suffix, name in Image.registered_extensions().items() if name == "JPEG"
    } <= set(SUFFIXES)


def test_an_error_lists_the_unread_files(tmp_path: Path) -> None:
    """In a class folder without images, a part without class folders, and with too few images."""
    root = folder(tmp_path / "images", ("train", "valid"))
    for part in ("train", "valid"):
        for number in range(6):
            file = root / part / "cat" / f"{number}.png"
            file.rename(file.with_suffix(".heic") if part == "valid" or number else file)
    (root / "valid" / "catalogue").mkdir()
    (root / "train" / "catalogue").mkdir()
    for part in ("train", "valid"):
        image(root / part / "catalogue" / "0.png")
    (root / "valid" / "catalogue" / "more.heif").write_bytes(b"x")
    with refused(str(root / "valid" / "cat"), 0, (1, None)) as refusal:
        describe(config(root), tmp_path / "store", 0)
    assert str(refusal.value).endswith("(not read: files of .heic: 6 (such as valid/cat/0.heic))")
    image(root / "valid" / "cat" / "0.jfif")
    with refused("data.validation", 0.1, (3 / 8, 1 - 3 / 8)) as refusal:
        describe(config(root).model_copy(update={"validation": 0.1}), tmp_path / "store", 0)
    assert "files of .heic: 11 (such as" in str(refusal.value)
    flat = tmp_path / "flat"
    for part in ("train", "test"):
        image(flat / part / "0.png")
    with refused(str(flat / "train"), 0, LAYOUT) as refusal:
        describe(config(flat), tmp_path / "store", 0)
    assert str(refusal.value).endswith("1 (train/0.png))")


def test_a_long_list_of_kinds_is_truncated_with_a_count() -> None:
    messages = list_kinds([f"files of .{number}: 1 (x)" for number in range(20)])
    assert messages.count("; ") == 12 and messages.endswith("; 8 more kinds")


def test_the_plan_and_the_start_list_unread_files_and_conversions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder(tmp_path / "images", each=8)
    (root / "train" / "cat" / "a.txt").write_bytes(b"x")
    Image.fromarray(np.zeros((9, 9), np.uint16) + 40_000).save(root / "train" / "cat" / "wide.png")
    values = {
        "data": config(root).model_dump(mode="json"),
        "teacher": None,
        "method": {"name": "cross_entropy"},
    }
    configuration, store = (
        build(values | {"training": {"batch_size": 4}}),
        Store.open(tmp_path / "store"),
    )
    messages: list[str] = []
    show_plan(store, configuration, "train", True, Console())
    before = capsys.readouterr().out
    prepare_run(store, configuration, "train", local_processes=1, note=messages.append)
    show_plan(store, configuration, "train", True, Console())
    after = capsys.readouterr().out
    assert messages == [
        "not read: files of .txt: 1 (train/cat/a.txt)",
        "images: 16-bit grey scaled to 8 bits: 1",
    ]
    assert (
        re.search(r"not read +files of .txt: 1 \(train/cat/a.txt\)", before)
        and "images  " not in before
    ), "a dry run decodes nothing"
    assert re.search(r"not read +files of .txt: 1 \(train/cat/a.txt\)", after)
    assert re.search(r"images +16-bit grey scaled to 8 bits: 1", after)
