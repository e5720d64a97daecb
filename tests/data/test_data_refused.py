"""Bad data: each is refused in one sentence that names the field or file. Knows no good data."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_made import arrays, folder, images, npz

from orchestrator.config import Data, Limit
from orchestrator.data import describe, prepare
from orchestrator.data.pictures import decode
from orchestrator.errors import ConfigurationError

LABELS = np.arange(120) % 4

BAD_ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "missing key": ({"test_labels": None}, "has no test_labels: the keys needed are"),
    "half a validation part": ({"val_images": images(20)}, "has no val_labels"),
    "float images": ({"train_images": images(120).astype(np.float32)}, "train_images is of type float32: only uint8"),
    "flat images": ({"train_images": images(120).reshape(120, -1)}, r"train_images has shape \(120, 192\)"),
    "channels first": ({"train_images": np.zeros((120, 3, 32, 32), np.uint8)}, "train_images has shape .* channels"),
    "no images": ({"test_images": images(0), "test_labels": LABELS[:0]}, "test_images has shape .*at least one"),
    "one label missing": ({"train_labels": LABELS[:-1]}, r"train_labels has shape \(119,\) for 120 images"),
    "several labels an image": ({"train_labels": np.zeros((120, 14), int)}, r"train_labels has shape \(120, 14\)"),
    "float labels": ({"train_labels": LABELS.astype(float)}, "train_labels is of type float64: only integers"),
    "negative label": ({"train_labels": LABELS - 1}, "train labels hold -1, and only 0 to 2"),
    "label that training does not have": ({"test_labels": np.full(40, 4)}, "test labels hold 4, and only 0 to 3"),
    "more labels than names": ({"classes": np.array(["a", "b", "c"])}, "train labels hold 3, and only 0 to 2"),
    "names that are numbers": ({"classes": np.arange(4)}, "classes has shape .*one name for each class"),
    "a single class": ({"train_labels": LABELS * 0, "test_labels": LABELS[:40] * 0}, "has 1 class"),
    "class missing in train": (
        {"train_labels": LABELS % 2 * 3},
        r"class '1' \(label 1\) has 0 of the 120 samples of the train part",
    ),
    "class missing in test": ({"test_labels": LABELS[:40] % 3}, r"class '3' \(label 3\) has 0 of the 40 samples of the test part"),
    "other shape in test": ({"test_images": np.zeros((40, 9, 9, 3), np.uint8)}, r"test images have shape \(9, 9, 3\)"),
    "class missing in validation": (
        {"val_images": images(20), "val_labels": np.arange(20) % 3},
        r"class '3' \(label 3\) has 0 of the 20 samples of the validation part",
    ),
    "class of one sample": ({"train_labels": np.minimum(np.arange(120), 1), "test_labels": LABELS[:40] % 2}, "class '0'"),
    "pickled objects": ({"train_labels": LABELS.astype(object)}, "cannot be read as .npz"),
}


@pytest.mark.parametrize(("changed", "sentence"), BAD_ARRAYS.values(), ids=list(BAD_ARRAYS))
def test_bad_arrays(tmp_path: Path, changed: dict[str, Any], sentence: str) -> None:
    file = npz(tmp_path, **changed)
    for refuse in (prepare, describe):
        with pytest.raises(ConfigurationError, match=sentence) as told:
            refuse(Data(name="npz", path=file), tmp_path / "store", 0)
        assert str(file) in str(told.value) and "\n" not in str(told.value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("keep", [0, 10, 2000, -20])
def test_a_truncated_file(tmp_path: Path, keep: int) -> None:
    file = npz(tmp_path)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ConfigurationError, match=f"data.path = {file} cannot be read"):
        prepare(Data(name="npz", path=file), tmp_path, 0)


def test_a_damaged_member(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    np.savez_compressed(file, **arrays())  # type: ignore[arg-type]
    content = bytearray(file.read_bytes())
    content[300:400] = bytes(100)
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        prepare(Data(name="npz", path=file), tmp_path, 0)


def test_a_single_array_is_not_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", images(3))
    with pytest.raises(ConfigurationError, match="single array"):
        prepare(Data(name="npz", path=tmp_path / "data.npy"), tmp_path, 0)


BAD_SETTINGS: dict[str, tuple[Data, str]] = {
    "unknown name": (Data(name="CIFAR"), "data.name = 'CIFAR' is not known: did you mean 'CIFAR10'"),
    "npz without path": (Data(name="npz"), "data.path is missing.*npz"),
    "folder without path": (Data(name="folder", size=8), "data.path is missing.*folder"),
    "folder without size": (Data(name="folder", path=Path("/nowhere")), "data.size is missing"),
    "no file": (Data(name="npz", path=Path("/nowhere/x.npz")), "data.path = /nowhere/x.npz is not a file"),
    "no folder": (Data(name="folder", path=Path("/nowhere"), size=8), "data.path = /nowhere is not a folder"),
    "limit below the classes": (Data(limit=Limit(test=9)), "data.limit.test = 9 is not allowed: give at least 10"),
    "share below the classes": (Data(validation=0.001), "data.validation = 0.001 of 1438 training samples is 1"),
    "share above the classes": (Data(validation=0.999), "data.validation = 0.999 .* leaves 1"),
}


@pytest.mark.parametrize(("config", "sentence"), BAD_SETTINGS.values(), ids=list(BAD_SETTINGS))
def test_bad_settings(tmp_path: Path, config: Data, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        prepare(config, tmp_path, 0)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "SVHN"])
def test_a_set_that_is_not_on_disk_says_where_it_was_looked_for(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name} cannot be read below {tmp_path}/data/raw .*download=true, or data.path"):
        prepare(Data(name=name), tmp_path, 0)
    with pytest.raises(ConfigurationError, match=f"below {tmp_path}/mine"):
        prepare(Data(name=name, path=tmp_path / "mine"), tmp_path, 0)


def test_a_dry_run_does_not_download(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="a dry run downloads nothing"):
        describe(Data(name="CIFAR10", download=True), tmp_path / "store", 0)
    assert not (tmp_path / "store").exists()


def _truncated_mnist(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(b"\x00\x00\x08\x03" + (1000).to_bytes(4, "big") + bytes(100))


def test_a_truncated_torchvision_file(tmp_path: Path) -> None:
    _truncated_mnist(tmp_path)
    with pytest.raises(ConfigurationError, match=f"MNIST cannot be read below {tmp_path}"):
        prepare(Data(name="MNIST", path=tmp_path), tmp_path, 0)


def _no_test(root: Path) -> None:
    for file in sorted((root / "test").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (root / "test").rmdir()


def _empty_class(root: Path) -> None:
    for file in (root / "test" / "dog").iterdir():
        file.unlink()


BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no test": (_no_test, "has no val/ and no test/"),
    "no train": (lambda root: (root / "train").rename(root / "training"), "has no train/"),
    "empty class": (_empty_class, r"class 'dog' \(label 1\) has 0 images in test/"),
    "class that training does not have": (
        lambda root: (root / "test" / "fish").mkdir(),
        "fish is a class that .*train does not have",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), BAD_FOLDERS.values(), ids=list(BAD_FOLDERS))
def test_bad_folders(tmp_path: Path, damage: Callable[[Path], object], sentence: str) -> None:
    root = folder(tmp_path / "images")
    damage(root)
    with pytest.raises(ConfigurationError, match=sentence) as told:
        prepare(Data(name="folder", path=root, size=8), tmp_path, 0)
    assert str(root) in str(told.value)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_images_that_cannot_be_opened_are_counted_before_any_training(tmp_path: Path, content: bytes | None) -> None:
    root = folder(tmp_path / "images")
    first, second = root / "train" / "dog" / "1.png", root / "test" / "cat" / "0.png"
    for path in (first, second):
        path.write_bytes(path.read_bytes()[:-60] if content is None else content)
    config = Data(name="folder", path=root, size=8, validation=0.34)
    with pytest.raises(ConfigurationError, match=f"2 of 24 images .* the first is {first.resolve()} ") as told:
        prepare(config, tmp_path / "store", 0)
    assert "\n" not in str(told.value) and not (tmp_path / "store").exists()
    assert describe(config, tmp_path / "store", 0)["sizes"]["test"] == 12, "a dry run lists and opens nothing"


def test_a_picture_that_a_program_would_draw_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow goes by the content, and has EPS drawn by Ghostscript."""
    from PIL import EpsImagePlugin

    def draw(*_: object) -> None:
        raise AssertionError("Ghostscript would be started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", draw)
    root = folder(tmp_path / "images")
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"
    (root / "train" / "cat" / "0.png").write_bytes(text)
    with pytest.raises(ConfigurationError, match=r"1 of 24 images .* cannot be opened, the first is .*train/cat/0\.png"):
        prepare(Data(name="folder", path=root, size=16), tmp_path, 0)
    with pytest.raises(ConfigurationError, match=r"cat/0\.png cannot be decoded"):
        list(decode(root, np.array([b"train/cat/0.png"]), [np.array([0])], 16, None, 0, False))
