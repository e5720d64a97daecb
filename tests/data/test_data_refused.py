"""Test that bad data are refused in one sentence that names the field or file."""

import io
import re
import warnings
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from data_made import arrays, images, npz
from numpy.typing import NDArray

from orchestrator.config.data_schema import Data, Limit
from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.data import checks, datasets
from orchestrator.data.prepare import describe, list_notes, prepare
from tests.refusal import ANY, refused

LABELS = np.arange(120) % 4

IMAGES, EVERY_CLASS = (
    "(n, height, width) or (n, height, width, 1 to 4)",
    "at least one sample of every class",
)
UNICODE, KEYS = (
    "text, or bytes in UTF-8",
    ("train_images", "train_labels", "test_images", "test_labels"),
)
Refusal = tuple[
    str, Any, Any
]  # the array of the file, or "" for the file; the value; what is allowed

BAD_ARRAYS: dict[str, tuple[dict[str, Any], Refusal]] = {
    "missing key": ({"test_labels": None}, ("", ("test_labels",), KEYS)),
    "half a validation part": (
        {"val_images": images(20)},
        ("", ("val_labels",), (*KEYS, "val_images", "val_labels")),
    ),
    "float images": (
        {"train_images": images(120).astype(np.float32)},
        ("train_images", "float32", "uint8"),
    ),
    "flat images": (
        {"train_images": images(120).reshape(120, -1)},
        ("train_images", (120, 192), IMAGES),
    ),
    "channels first": (
        {"train_images": np.zeros((120, 3, 32, 32), np.uint8)},
        ("train_images", (120, 3, 32, 32), IMAGES),
    ),
    "no images": (
        {"test_images": images(0), "test_labels": LABELS[:0]},
        ("test_images", (0, 8, 8, 3), IMAGES),
    ),
    "one label missing": ({"train_labels": LABELS[:-1]}, ("train_labels", (119,), (120,))),
    "several labels an image": (
        {"train_labels": np.zeros((120, 14), int)},
        ("train_labels", (120, 14), (120,)),
    ),
    "float labels": ({"train_labels": LABELS.astype(float)}, ("train_labels", "float64", int)),
    "negative label": ({"train_labels": LABELS - 1}, ("train", -1, (0, 2))),
    "label that training does not have": ({"test_labels": np.full(40, 4)}, ("test", 4, (0, 3))),
    "more labels than names": ({"classes": np.array(["a", "b", "c"])}, ("train", 3, (0, 2))),
    "a label of 2^32 - 1": (
        {"train_labels": np.where(LABELS == 0, 2**32 - 1, LABELS)},
        ("train_labels", 2**32 - 1, (0, 119)),
    ),
    "a label of 2^64 - 1": (
        {"test_labels": np.full(40, 2**64 - 1, np.uint64)},
        ("test_labels", 2**64 - 1, (0, 39)),
    ),
    "a label as large as there are images": (
        {"test_labels": np.full(40, 40)},
        ("test_labels", 40, (0, 39)),
    ),
    "more names than images": ({"classes": np.arange(121).astype(str)}, ("classes", 121, (2, 120))),
    "names in Latin-1": (
        {"classes": np.array([b"caf\xe9", b"b", b"c", b"d"])},
        ("classes", b"\xe9", UNICODE),
    ),
    "a surrogate in a name": (
        {"classes": np.array(["\ud800", "b", "c", "d"])},
        ("classes", "\ud800".encode("utf-32-le", "surrogatepass"), UNICODE),
    ),
    "a name twice": (
        {"classes": np.array(["a", "b", "c", "b"])},
        ("classes][3", "b", "a unique name"),
    ),
    "an empty name": ({"classes": np.array(["a", "b", "", "d"])}, ("classes][2", "", "a name")),
    "a name of spaces": (
        {"classes": np.array([b"a", b"b", b"c", b"  "])},
        ("classes][3", "  ", "a name"),
    ),
    "an escape in a name": (
        {"classes": np.array(["a\x1b[2J", "b", "c", "d"])},
        ("classes][0", "a\x1b[2J", "printable characters"),
    ),
    "a line break in a name": (
        {"classes": np.array(["a", "b\nc", "c", "d"])},
        ("classes][1", "b\nc", "printable characters"),
    ),
    "a tab in a name": (
        {"classes": np.array([b"a", b"b", b"c\t", b"d"])},
        ("classes][2", "c\t", "printable characters"),
    ),
    "names that are numbers": ({"classes": np.arange(4)}, ("classes", ((4,), "int64"), str)),
    "a single class": (
        {"train_labels": LABELS * 0, "test_labels": LABELS[:40] * 0},
        ("", 1, (2, None)),
    ),
    "class missing in train": ({"train_labels": LABELS % 2 * 3}, ("train", "1", EVERY_CLASS)),
    "class missing in test": ({"test_labels": LABELS[:40] % 3}, ("test", "3", EVERY_CLASS)),
    "other shape in test": (
        {"test_images": np.zeros((40, 9, 9, 3), np.uint8)},
        ("test", (9, 9, 3), (8, 8, 3)),
    ),
    "class missing in validation": (
        {"val_images": images(20), "val_labels": np.arange(20) % 3},
        ("validation", "3", EVERY_CLASS),
    ),
    "class of one sample": (
        {"train_labels": np.minimum(np.arange(120), 1), "test_labels": LABELS[:40] % 2},
        ("train", "0", EVERY_CLASS),
    ),
    "pickled objects": (
        {"train_labels": LABELS.astype(object)},
        ("train_labels", "object", "no pickled objects"),
    ),
}


def refused_array(refusal: Refusal) -> AbstractContextManager[Any]:
    key, value, allowed = refusal
    return refused(f"data.path[{key}]" if key else "data.path", value, allowed)


@pytest.mark.parametrize(("changed", "refusal"), BAD_ARRAYS.values(), ids=list(BAD_ARRAYS))
def test_invalid_arrays_are_refused(
    tmp_path: Path, changed: dict[str, Any], refusal: Refusal
) -> None:
    file = npz(tmp_path, **changed)
    for refuse in (prepare, describe):
        with refused_array(refusal) as caught:
            refuse(Data(name="npz", path=file), tmp_path / "store", 0)
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def header(shape: tuple[int, ...], of: Any = "|u1") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": of, "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def packed(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def archive(file: Path, members: list[tuple[str, bytes]]) -> Path:
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        warnings.simplefilter("ignore")  # about a name that is written twice
        for name, content in members:
            written.writestr(name, content)
    return file


NO_ARRAY, NO_HEADER = "a NumPy array", "a NumPy header"
BAD_MEMBERS: dict[str, tuple[bytes, Any, Any]] = {
    "no npy": (b"hello world", None, NO_ARRAY),
    "empty": (b"", None, NO_ARRAY),
    "terabytes": (header((10**9, 64, 64)), (10**9, 64, 64), "0 bytes"),
    "more than can be counted": (header((10**19, 8, 8)), (10**19, 8, 8), "0 bytes"),
    "a negative side": (header((-5, 8, 8)) + bytes(320), (-5, 8, 8), "320 bytes"),
    "two negative sides": (header((-5, -8, 8)) + bytes(320), (-5, -8, 8), "320 bytes"),
    "a short one": (packed(images(120))[:-100], (120, 8, 8, 3), "22940 bytes"),
    "a long one": (packed(images(120)) + b"x", (120, 8, 8, 3), "23041 bytes"),
    "an unknown format": (b"\x93NUMPY\x09\x00" + bytes(100), (9, 0), ((1, 0), (2, 0))),
    "a header that is no Python": (
        b"\x93NUMPY\x01\x00" + (2000).to_bytes(2, "little") + b"(" * 2000,
        ANY,
        NO_HEADER,
    ),
    "a header of brackets that close": (
        b"\x93NUMPY\x01\x00" + (6001).to_bytes(2, "little") + b"(" * 3000 + b")" * 3000 + b"\n",
        ANY,
        NO_HEADER,
    ),
    "a dtype of a thousand fields": (
        header((3,), [(f"field{n}", "|u1") for n in range(400)]),
        ANY,
        ANY,
    ),
    "a text that no character has": (header((3,), "<U1") + b"\xff\xff\xff\x7f" * 3, "<U1", "uint8"),
}


@pytest.mark.parametrize(
    ("content", "value", "allowed"), BAD_MEMBERS.values(), ids=list(BAD_MEMBERS)
)
def test_a_member_that_is_not_an_array_is_refused(
    tmp_path: Path, content: bytes, value: Any, allowed: Any
) -> None:
    made = {f"{key}.npy": packed(array) for key, array in arrays().items()} | {
        "train_images.npy": content
    }
    with refused("data.path[train_images]", value, allowed) as caught:
        describe(
            Data(name="npz", path=archive(tmp_path / "data.npz", list(made.items()))),
            tmp_path / "store",
            0,
        )
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700 + len(str(tmp_path))


def test_invalid_names_duplicate_members_and_encrypted_members_are_refused(tmp_path: Path) -> None:
    made = [(f"{key}.npy", packed(array)) for key, array in arrays().items()]
    names = ("classes.npy", header((4,), "<U1") + b"\xff\xff\xff\x7f" * 4)
    locked = bytearray(archive(tmp_path / "locked.npz", made).read_bytes())
    for mark, flags in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        for found in re.finditer(re.escape(mark), bytes(locked)):
            locked[found.start() + flags] |= 1
    (tmp_path / "locked.npz").write_bytes(locked)
    locked_file = tmp_path / "locked.npz"
    files: dict[Path, Refusal] = {
        archive(tmp_path / "names.npz", [*made, names]): ("classes", b"\xff\xff\xff\x7f", UNICODE),
        archive(tmp_path / "twice.npz", [*made, made[1]]): ("train_labels", 2, 1),
        locked_file: ("", str(locked_file), "a file of numpy.savez"),
    }
    for file, refusal in files.items():
        with refused_array(refusal) as caught:
            describe(Data(name="npz", path=file), tmp_path / "store", 0)
        assert ("encrypted" in str(caught.value)) == (file == locked_file)


def test_arrays_beyond_the_free_memory_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like a zip bomb, but with all of its bytes in the file."""
    config = Data(name="npz", path=npz(tmp_path))
    held = sum(array.nbytes for array in arrays().values())
    memory, read = psutil.virtual_memory(), np.lib.format.read_array

    def of(free: int) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=free))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an array was read")

    of(2 * held)
    assert describe(config, tmp_path / "store", 0).sizes.test == 40
    of(2 * held - 1)
    monkeypatch.setattr(np.lib.format, "read_array", refuse)
    with refused("data.path", 2 * held, (0, 2 * held - 1), PreflightError):
        describe(config, tmp_path / "store", 0)
    monkeypatch.setattr(np.lib.format, "read_array", read)


SEEN_IN_HEADERS = [
    "one label missing",
    "several labels an image",
    "float labels",
    "float images",
    "flat images",
    "channels first",
    "no images",
    "other shape in test",
    "more names than images",
    "names that are numbers",
]


@pytest.mark.parametrize("what", SEEN_IN_HEADERS)
def test_invalid_headers_are_refused_before_an_array_is_read(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gigabytes of zeros are kilobytes in the file, and take half a minute to read."""
    changed, refusal = BAD_ARRAYS[what]
    config = Data(name="npz", path=npz(tmp_path, **changed))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an array was read")

    monkeypatch.setattr(np.lib.format, "read_array", refuse)
    with refused_array(refusal):
        describe(config, tmp_path / "store", 0)


def test_class_names_may_be_utf8_bytes(tmp_path: Path) -> None:
    names = ["käse", "b", "naïve 猫", "d"]
    for given in (
        np.array(names),
        np.array([name.encode() for name in names]),
        np.array(names).astype(">U8"),
    ):
        assert (
            describe(
                Data(name="npz", path=npz(tmp_path, classes=given)), tmp_path / "store", 0
            ).classes
            == names
        )


def test_many_class_names_are_read_unchanged() -> None:
    """With this number of names, quadratic work would take noticeably long."""
    expected = [f"{place}ä" for place in range(50_000)]
    assert (
        list(checks.decode_names("classes", np.array(expected), len(expected), "classes"))
        == expected
    )


def test_the_error_about_a_missing_key_lists_the_unread_keys(tmp_path: Path) -> None:
    file = npz(tmp_path, test_labels=None, test_label=LABELS[:40])
    with refused("data.path", ("test_labels",)) as caught:
        describe(Data(name="npz", path=file), tmp_path / "store", 0)
    assert re.search(r"not read: .* 1 \(test_label\)", str(caught.value))


def test_unread_keys_are_listed(tmp_path: Path) -> None:
    file = npz(tmp_path, valid_images=images(20), notes=np.array(["x"]))
    config = Data(name="npz", path=file)
    summary = describe(config, tmp_path / "store", 0)
    notes = list_notes(config, summary)
    assert notes == {"not read": "keys of the file: 2 (valid_images, notes)"}
    assert not list_notes(Data(name="npz", path=npz(tmp_path)), summary)


@pytest.mark.parametrize("keep", [0, 10, 2000, -20])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    file = npz(tmp_path)
    file.write_bytes(file.read_bytes()[:keep])
    with refused("data.path", str(file), "a file of numpy.savez"):
        prepare(Data(name="npz", path=file), tmp_path, 0)


def test_a_damaged_member_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    np.savez_compressed(file, **arrays())  # type: ignore[arg-type]
    content = bytearray(file.read_bytes())
    content[300:400] = bytes(100)
    file.write_bytes(content)
    with refused("data.path", str(file), "a file of numpy.savez"):
        prepare(Data(name="npz", path=file), tmp_path, 0)


def test_a_single_array_is_refused_as_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", images(3))
    with refused("data.path", "a single array"):
        prepare(Data(name="npz", path=tmp_path / "data.npy"), tmp_path, 0)


BAD_SETTINGS: dict[str, tuple[Data, Refusal]] = {
    "unknown name": (Data(name="CIFAR"), ("data.name", "CIFAR", tuple(datasets.DATASETS))),
    "npz without path": (Data(name="npz"), ("data.path", None, "an .npz file")),
    "folder without path": (Data(name="folder", size=8), ("data.path", None, "a folder of images")),
    "folder without size": (Data(name="folder", path=Path("/nowhere")), ("data.size", None, int)),
    "no file": (
        Data(name="npz", path=Path("/nowhere/x.npz")),
        ("data.path", "/nowhere/x.npz", "file"),
    ),
    "no folder": (
        Data(name="folder", path=Path("/nowhere"), size=8),
        ("data.path", "/nowhere", "folder"),
    ),
    "limit below the classes": (Data(limit=Limit(test=9)), ("data.limit.test", 9, (10, None))),
    "share below the classes": (
        Data(validation=0.001),
        ("data.validation", 0.001, (10 / 1438, 1 - 10 / 1438)),
    ),
    "share above the classes": (
        Data(validation=0.999),
        ("data.validation", 0.999, (10 / 1438, 1 - 10 / 1438)),
    ),
}


@pytest.mark.parametrize(("config", "refusal"), BAD_SETTINGS.values(), ids=list(BAD_SETTINGS))
def test_invalid_settings_are_refused(tmp_path: Path, config: Data, refusal: Refusal) -> None:
    with refused(*refusal):
        prepare(config, tmp_path, 0)


def test_the_nearest_data_set_name_is_suggested(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'CIFAR10'"):
        prepare(Data(name="CIFAR"), tmp_path, 0)


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "SVHN"])
def test_the_error_about_a_missing_data_set_names_the_searched_folder(
    tmp_path: Path, name: str
) -> None:
    with refused("data.path", f"{tmp_path}/data/raw", f"the files of {name}"):
        prepare(Data(name=name), tmp_path, 0)
    with refused("data.path", f"{tmp_path}/mine", f"the files of {name}"):
        prepare(Data(name=name, path=tmp_path / "mine"), tmp_path, 0)


def test_a_dry_run_does_not_download(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="dry run") as caught:
        describe(Data(name="CIFAR10", download=True), tmp_path / "store", 0)
    assert (caught.value.field, caught.value.allowed) == ("data.path", "the files of CIFAR10")
    assert not (tmp_path / "store").exists()


def _truncated_mnist(root: Path) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{name}-ubyte").write_bytes(
            b"\x00\x00\x08\x03" + (1000).to_bytes(4, "big") + bytes(100)
        )


def test_a_truncated_torchvision_file_is_refused(tmp_path: Path) -> None:
    _truncated_mnist(tmp_path)
    with refused("data.path", str(tmp_path), "the files of MNIST"):
        prepare(Data(name="MNIST", path=tmp_path), tmp_path, 0)
