"""Load data from one .npz file with MedMNIST's keys.

All headers are read and checked against the file and the free memory before any array is read.
"""

import contextlib
import math
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from numpy.lib import format as npy
from numpy.typing import NDArray

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError, FieldError, PreflightError, UserError
from orchestrator.core.paths import read_file
from orchestrator.core.text import shorten
from orchestrator.data import checks
from orchestrator.data._listing import describe_unread
from orchestrator.data._parts import Part, Parts, without_labels

REQUIRED = ("train_images", "train_labels", "test_images", "test_labels")
VALIDATION = ("val_images", "val_labels")
UNLABELLED = "unlabelled_images"
# training images without a label suffice if there is a validation part
UNLABELLED_REQUIRED = (UNLABELLED, *VALIDATION, "test_images", "test_labels")
KNOWN = (*REQUIRED, *VALIDATION, UNLABELLED, "classes")
# prefix of the keys -> name of the part in messages
PARTS = {"train": "train", "val": "validation", "test": "test"}
COPIES = 2  # copies of the arrays in memory while the parts are cut
# version 3.0 is for structured arrays only
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Header(NamedTuple):
    """Shape and type of an array, from its header."""

    shape: checks.Shape
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """Return the size of the array in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def load(config: Data, raw: Path) -> Parts:
    """Return the arrays of `config.path`.

    Images are (n, H, W) or (n, H, W, C) uint8, labels (n,) or (n, 1) integers. `classes` holds one
    name for each class. `val_images` and `val_labels` are the validation part; both or neither must
    exist. `unlabelled_images` are training images without a label; with them and a validation part
    `train_images` and `train_labels` may be missing.

    Raises:
        ConfigurationError: The file is damaged, or a key cannot be used.
        PreflightError: The arrays exceed the free memory.
    """
    path = _path(config)
    arrays = _read(path)
    parts = {split: _part(path, arrays, split) for split in PARTS if f"{split}_images" in arrays}
    unlabelled = None
    if UNLABELLED in arrays:
        where = f"data.path = {path}: {UNLABELLED}"
        unlabelled = checks.convert_images(where, arrays[UNLABELLED], _field(UNLABELLED))
        parts.setdefault("train", without_labels(unlabelled[:0]))
    named = parts["train"] if len(parts["train"]) else parts["val"]
    if "classes" in arrays:
        classes = checks.decode_names(
            f"data.path = {path}: classes", arrays["classes"], len(named), _field("classes")
        )
    else:
        classes = checks.default_class_names(named.labels)
    return Parts(parts["train"], parts.get("val"), parts["test"], classes, unlabelled=unlabelled)


def identity(config: Data) -> list[Any]:
    """Return the path of the file, its size in bytes and its modification time in ns."""
    path = _path(config)
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def list_unread(config: Data) -> list[str]:
    """Return the keys of the file that are not read."""
    path = _path(config)
    with _open_archive(path) as archive:
        return _describe_unread_keys(_members(archive))


def _describe_unread_keys(members: Iterable[str]) -> list[str]:
    keys = [shorten(key) for key in members if key not in KNOWN]
    return (
        [f"keys of the file: {len(keys)} ({', '.join(keys[:8])}{', ...' if len(keys) > 8 else ''})"]
        if keys
        else []
    )


def _field(key: str) -> str:
    """Return the name of an array of the file, for an error."""
    return f"data.path[{key}]"


def _path(config: Data) -> Path:
    return read_file(
        checks.require_path(config, "an .npz file", "FILE.npz"),
        "data.path",
        f"data.name = npz needs an .npz file with the keys {', '.join(REQUIRED)}",
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    with _open_archive(path) as archive:
        members = _members(archive)
        required = REQUIRED + (VALIDATION if any(key in members for key in VALIDATION) else ())
        if UNLABELLED in members and not any(key.startswith("train_") for key in members):
            required = UNLABELLED_REQUIRED
        if missing := [key for key in required if key not in members]:
            raise ConfigurationError(
                f"data.path = {path} has no {' and no '.join(missing)}: the required keys are "
                f"{', '.join(required)}{describe_unread(_describe_unread_keys(members))}"
            ).with_details("data.path", tuple(missing), required)
        known = {key: members[key] for key in KNOWN if key in members}
        headers = {key: _read_header(archive, key, member) for key, member in known.items()}
        _require_fit(path, headers)
        _require_memory(path, sum(header.size for header in headers.values()))
        arrays: dict[str, NDArray[Any]] = {}
        for key, member in known.items():
            with archive.open(member) as stream:
                arrays[key] = npy.read_array(stream, allow_pickle=False)
    return arrays


@contextlib.contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with path.open("rb") as stream:
            if stream.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise FieldError("it is a single array").with_details(
                    "data.path", "a single array", "an archive of arrays"
                )
        with zipfile.ZipFile(path) as archive:
            yield archive
    except UserError:
        raise
    except Exception as error:  # numpy and zipfile have no common error for damage
        reason = shorten(" ".join(str(error).split())) or type(error).__name__
        message = (
            f"data.path = {path} cannot be read as .npz ({reason}): save it again with numpy.savez"
        )
        if isinstance(error, FieldError):
            raise ConfigurationError.from_error(error, message) from error
        raise ConfigurationError(message).with_details(
            "data.path", str(path), "a file of numpy.savez"
        ) from error


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the arrays by their keys, as numpy names them."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        key = member.filename.removesuffix(".npy")
        if key in members:
            raise FieldError(f"it contains {key} twice").with_details(_field(key), 2, 1)
        members[key] = member
    return members


def _read_header(archive: zipfile.ZipFile, key: str, member: zipfile.ZipInfo) -> Header:
    """Return the header of an array.

    Raises:
        FieldError: The header cannot be used, or the file holds another number of bytes.
    """
    with archive.open(member) as stream:
        try:
            version = npy.read_magic(stream)
        except ValueError as error:
            raise FieldError(f"{key} is not a NumPy array").with_details(
                _field(key), None, "a NumPy array"
            ) from error
        if version not in HEADERS:
            raise FieldError(
                f"{key} has a header of the unsupported format {version}"
            ).with_details(_field(key), version, tuple(HEADERS))
        try:
            shape, _, dtype = HEADERS[version](stream)
        except Exception as error:  # any error of damage; may repeat the whole header
            reason = shorten(" ".join(str(error).split()))
            raise FieldError(f"the header of {key} is damaged: {reason}").with_details(
                _field(key), reason, "a NumPy header"
            ) from error
        header, stored_bytes = Header(shape, dtype), member.file_size - stream.tell()
    if dtype.hasobject:
        raise FieldError(f"{key} contains pickled objects, which are never loaded").with_details(
            _field(key), str(dtype), "no pickled objects"
        )
    if header.size != stored_bytes or min(shape, default=1) < 0:
        raise FieldError(
            f"the header of {key} declares {shorten(' x '.join(map(str, shape)))} of "
            f"{shorten(str(dtype))}, "
            f"{shorten(str(header.size))} bytes, but {stored_bytes} bytes are stored"
        ).with_details(_field(key), shape, f"{stored_bytes} bytes")
    return header


def _require_fit(path: Path, headers: dict[str, Header]) -> None:
    """Raise ConfigurationError if types, shapes or counts show that the arrays cannot be used.

    The headers suffice for this check.
    """
    where, shapes = f"data.path = {path}", dict[str, checks.Shape]()
    for split in (split for split in PARTS if f"{split}_images" in headers):
        shapes[split] = checks.require_images(
            f"{where}: {split}_images", *headers[f"{split}_images"], _field(f"{split}_images")
        )
        checks.require_labels(
            f"{where}: {split}_labels",
            *headers[f"{split}_labels"],
            shapes[split][0],
            _field(f"{split}_labels"),
        )
    first = next(iter(shapes.values()))  # of the training part, if it has labels
    if UNLABELLED in headers:
        shapes[UNLABELLED] = checks.require_images(
            f"{where}: {UNLABELLED}", *headers[UNLABELLED], _field(UNLABELLED)
        )
    for split, shape in shapes.items():
        name = PARTS.get(split, "unlabelled")
        checks.require_same_shape(where, name, shape[1:], first[1:], "data.path")
    if "classes" in headers:
        checks.require_names(f"{where}: classes", *headers["classes"], first[0], _field("classes"))


def _require_memory(path: Path, needed: int) -> None:
    free = psutil.virtual_memory().available
    if COPIES * needed > free:
        raise PreflightError(
            f"data.path = {path} holds arrays of {needed / 2**30:.3g} GiB, and preparing them "
            f"takes {COPIES} times as much memory, but {free / 2**30:.3g} GiB are free: save "
            "fewer or smaller images, or use a machine with more memory"
        ).with_details("data.path", COPIES * needed, (0, free))


def _part(path: Path, arrays: dict[str, NDArray[Any]], split: str) -> Part:
    images = checks.convert_images(
        f"data.path = {path}: {split}_images", arrays[f"{split}_images"], _field(f"{split}_images")
    )
    return Part(
        images,
        checks.convert_labels(
            f"data.path = {path}: {split}_labels",
            arrays[f"{split}_labels"],
            len(images),
            _field(f"{split}_labels"),
        ),
    )
