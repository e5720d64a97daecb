"""Bad data: each is refused in one sentence that names the field or file. Knows no good data."""

import io
import os
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from data_made import arrays, folder, images, npz
from numpy.typing import NDArray
from PIL import Image

from orchestrator.config.schema import Data, Limit
from orchestrator.core.errors import ConfigurationError, EnvironmentUnfitError
from orchestrator.data import _image_check as image_check
from orchestrator.data import checks
from orchestrator.data.pictures import decode
from orchestrator.data.prepare import describe, list_notes, prepare

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
    "a label of 2^32 - 1": (
        {"train_labels": np.where(LABELS == 0, 2**32 - 1, LABELS)},
        "train_labels holds 4294967295 for 120 images: .* the largest that is allowed is 119",
    ),
    "a label of 2^64 - 1": ({"test_labels": np.full(40, 2**64 - 1, np.uint64)}, "test_labels holds 18446744073709551615 for 40"),
    "a label as large as there are images": ({"test_labels": np.full(40, 40)}, "test_labels holds 40 for 40 images"),
    "more names than images": ({"classes": np.arange(121).astype(str)}, "classes holds 121 names for 120 training images"),
    "names in Latin-1": ({"classes": np.array([b"caf\xe9", b"b", b"c", b"d"])}, "classes holds a name that is no Unicode"),
    "a surrogate in a name": ({"classes": np.array(["\ud800", "b", "c", "d"])}, "classes holds a name that is no Unicode"),
    "a name twice": ({"classes": np.array(["a", "b", "c", "b"])}, r"classes\[1\] and \[3\] are both 'b': give each class"),
    "an empty name": ({"classes": np.array(["a", "b", "", "d"])}, r"classes\[2\] is empty: give each class a name"),
    "a name of spaces": ({"classes": np.array([b"a", b"b", b"c", b"  "])}, r"classes\[3\] is empty"),
    "an escape in a name": ({"classes": np.array(["a\x1b[2J", "b", "c", "d"])}, r"classes\[0\] = .* has the character U\+001B"),
    "a line break in a name": ({"classes": np.array(["a", "b\nc", "c", "d"])}, r"classes\[1\] = .* has the character U\+000A"),
    "a tab in a name": ({"classes": np.array([b"a", b"b", b"c\t", b"d"])}, r"classes\[2\] = .* has the character U\+0009"),
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


def header(shape: tuple[int, ...], of: Any = "|u1") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": of, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def packed(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def archive(file: Path, members: list[tuple[str, bytes]]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        warnings.simplefilter("ignore")  # of a name that is written twice
        for name, content in members:
            written.writestr(name, content)
    return file


BAD_MEMBERS: dict[str, tuple[bytes, str]] = {
    "no npy": (b"hello world", "train_images is no array of numpy"),
    "empty": (b"", "train_images is no array of numpy"),
    "terabytes": (header((10**9, 64, 64)), "announced as 1000000000 x 64 x 64 of uint8, 4096000000000 bytes, and holds 0"),
    "more than can be counted": (header((10**19, 8, 8)), "announced as 10000000000000000000 x 8 x 8"),
    "a negative side": (header((-5, 8, 8)) + bytes(320), "announced as -5 x 8 x 8"),
    "two negative sides": (header((-5, -8, 8)) + bytes(320), "announced as -5 x -8 x 8"),
    "a short one": (packed(images(120))[:-100], "and holds 22940"),
    "a long one": (packed(images(120)) + b"x", "and holds 23041"),
    "an unknown format": (b"\x93NUMPY\x09\x00" + bytes(100), "another format"),
    "a header that is no Python": (
        b"\x93NUMPY\x01\x00" + (2000).to_bytes(2, "little") + b"(" * 2000,
        "the header of train_images is damaged",
    ),
    "a header of brackets that close": (
        b"\x93NUMPY\x01\x00" + (6001).to_bytes(2, "little") + b"(" * 3000 + b")" * 3000 + b"\n",
        "the header of train_images is damaged",
    ),
    "a dtype of a thousand fields": (header((3,), [(f"field{n}", "|u1") for n in range(400)]), "train_images"),
    "a text that no character has": (header((3,), "<U1") + b"\xff\xff\xff\x7f" * 3, "train_images is of type <U1"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD_MEMBERS.values(), ids=list(BAD_MEMBERS))
def test_a_member_that_is_no_array(tmp_path: Path, content: bytes, sentence: str) -> None:
    made = {f"{key}.npy": packed(array) for key, array in arrays().items()} | {"train_images.npy": content}
    with pytest.raises(ConfigurationError, match=sentence) as told:
        describe(Data(name="npz", path=archive(tmp_path / "data.npz", list(made.items()))), tmp_path / "store", 0)
    assert "\n" not in str(told.value) and len(str(told.value)) < 700 + len(str(tmp_path))


def test_names_that_no_character_has_a_member_that_stands_twice_and_one_that_is_encrypted(tmp_path: Path) -> None:
    made = [(f"{key}.npy", packed(array)) for key, array in arrays().items()]
    names = ("classes.npy", header((4,), "<U1") + b"\xff\xff\xff\x7f" * 4)
    locked = bytearray(archive(tmp_path / "locked.npz", made).read_bytes())
    for mark, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        for found in re.finditer(re.escape(mark), bytes(locked)):
            locked[found.start() + flags] |= 1
    (tmp_path / "locked.npz").write_bytes(locked)
    files = {
        archive(tmp_path / "names.npz", [*made, names]): "classes holds a name that is no Unicode",
        archive(tmp_path / "twice.npz", [*made, made[1]]): "it holds train_labels twice",
        tmp_path / "locked.npz": "is encrypted",
    }
    for file, sentence in files.items():
        with pytest.raises(ConfigurationError, match=sentence):
            describe(Data(name="npz", path=file), tmp_path / "store", 0)


def test_arrays_beyond_the_free_memory_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a zip bomb is, whose bytes are really there."""
    config = Data(name="npz", path=npz(tmp_path))
    held = sum(array.nbytes for array in arrays().values())
    memory, read = psutil.virtual_memory(), np.lib.format.read_array

    def of(free: int) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=free))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an array was read")

    of(2 * held)
    assert describe(config, tmp_path / "store", 0)["sizes"]["test"] == 40
    of(2 * held - 1)
    monkeypatch.setattr(np.lib.format, "read_array", refuse)
    with pytest.raises(EnvironmentUnfitError, match=rf"data.path = {config.path} holds arrays of .* GiB are free"):
        describe(config, tmp_path / "store", 0)
    monkeypatch.setattr(np.lib.format, "read_array", read)


SEEN_IN_HEADERS = [
    "one label missing", "several labels an image", "float labels", "float images", "flat images", "channels first", "no images",
    "other shape in test", "more names than images", "names that are numbers",
]  # fmt: skip


@pytest.mark.parametrize("what", SEEN_IN_HEADERS)
def test_what_headers_say_is_refused_before_an_array_is_read(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gigabytes of zeros are kilobytes in the file, and take half a minute to be read."""
    changed, sentence = BAD_ARRAYS[what]
    config = Data(name="npz", path=npz(tmp_path, **changed))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an array was read")

    monkeypatch.setattr(np.lib.format, "read_array", refuse)
    with pytest.raises(ConfigurationError, match=sentence):
        describe(config, tmp_path / "store", 0)


def test_bytes_in_utf8_are_names(tmp_path: Path) -> None:
    names = ["käse", "b", "naïve 猫", "d"]
    for given in (np.array(names), np.array([name.encode() for name in names]), np.array(names).astype(">U8")):
        assert describe(Data(name="npz", path=npz(tmp_path, classes=given)), tmp_path / "store", 0)["classes"] == names


def test_many_names_are_read_as_they_are() -> None:
    """So many that work which grows with their square would be noticed by whoever waits for it."""
    expected = [f"{place}ä" for place in range(50_000)]
    assert list(checks.names("classes", np.array(expected), len(expected))) == expected


def test_a_missing_key_is_told_beside_those_that_are_not_read(tmp_path: Path) -> None:
    file = npz(tmp_path, test_labels=None, test_label=LABELS[:40])
    with pytest.raises(ConfigurationError, match=r"has no test_labels: .* \(not read: keys of the file: 1 \(test_label\)\)$"):
        describe(Data(name="npz", path=file), tmp_path / "store", 0)


def test_keys_that_are_not_read_are_named(tmp_path: Path) -> None:
    file = npz(tmp_path, valid_images=images(20), notes=np.array(["x"]))
    summary = describe(Data(name="npz", path=file), tmp_path / "store", 0)
    assert list_notes(summary) == {"not read": "keys of the file: 2 (valid_images, notes)"}
    assert not list_notes(describe(Data(name="npz", path=npz(tmp_path)), tmp_path / "store", 0))


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


def _two_validation_parts(root: Path) -> None:
    for name in ("valid", "val"):
        (root / name).mkdir()


BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no test": (_no_test, "has no val/ and no test/"),
    "no train": (lambda root: (root / "train").rename(root / "training"), "has no train/"),
    "empty class": (_empty_class, r"class 'dog' \(label 1\) has 0 images in test/"),
    "two validation parts": (
        _two_validation_parts,
        "has val/ and valid/, and one of them is the validation part: keep one",
    ),
    "a name that is not UTF-8": (
        lambda root: [(root / split / "cat").rename(os.fsdecode(bytes(root / split) + b"/caf\xe9")) for split in ("train", "test")],
        "class folder .* has a name that is not UTF-8",
    ),
    "a name with a line break": (
        lambda root: [(root / split / "cat").rename(root / split / "a\nb") for split in ("train", "test")],
        r"class folder .* has the character U\+000A in its name: rename it",
    ),
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


def test_processes_find_what_one_finds_and_their_death_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder(tmp_path / "images")
    said: list[str] = []
    (root / "train" / "dog" / "1.png").write_bytes(b"no image")
    config = Data(name="folder", path=root, size=8, validation=0.34)
    monkeypatch.setattr(image_check, "MANY", 23)
    before = torch.get_rng_state()
    for few in (1024, 0):
        monkeypatch.setattr(image_check, "FEW", few)
        with pytest.raises(ConfigurationError, match=f"1 of 24 images .* the first is {root}/train/dog/1.png ") as told:
            prepare(config, tmp_path / "store", 0, said.append)
        said.append(str(told.value))
    assert said[:2] == said[2:] and said[0].startswith("24 images are decoded once")
    assert torch.equal(before, torch.get_rng_state())
    monkeypatch.setattr(image_check, "decode_image", lambda *_: os._exit(1))
    with pytest.raises(EnvironmentUnfitError, match=r"a process that decodes the images below .* died"):
        prepare(config, tmp_path / "store", 0)


def test_a_truncated_jpeg_and_what_training_would_refuse_are_found_before_it(tmp_path: Path) -> None:
    """The header of such a JPEG is whole."""
    root = folder(tmp_path / "images")
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, "JPEG")
    frames = [Image.fromarray(noise), Image.fromarray(255 - noise)]
    broken, moving = root / "train" / "cat" / "half.jpg", root / "train" / "dog" / "moving.gif"
    broken.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    config = Data(name="folder", path=root, size=8, validation=0.34)
    with pytest.raises(ConfigurationError, match=f"1 of 25 images .* the first is {broken} .image file is truncated"):
        prepare(config, tmp_path / "store", 0)
    broken.write_bytes(whole.getvalue())
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    with pytest.raises(ConfigurationError, match=f"1 of 26 images .* the first is {moving} .it holds several frames"):
        prepare(config, tmp_path / "store", 0)


def test_a_picture_that_a_program_would_draw_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow goes by the content, and has EPS drawn by Ghostscript."""
    from PIL import EpsImagePlugin

    def draw(*_: object) -> None:
        raise AssertionError("Ghostscript would be started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", draw)
    root = folder(tmp_path / "images")
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"
    (root / "train" / "cat" / "0.png").write_bytes(text)
    with pytest.raises(ConfigurationError, match=r"1 of 24 images .* cannot be decoded, the first is .*train/cat/0\.png"):
        prepare(Data(name="folder", path=root, size=16), tmp_path, 0)
    with pytest.raises(ConfigurationError, match=r"cat/0\.png cannot be decoded"):
        list(decode(root, np.array([b"train/cat/0.png"]), [np.array([0])], 16, None, 0, False))
