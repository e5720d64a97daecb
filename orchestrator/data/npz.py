"""Data in one .npz file with MedMNIST's keys. Knows no splitting and no other source."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.config import Data
from orchestrator.data import checks
from orchestrator.data.parts import Part, Parts
from orchestrator.errors import ConfigurationError
from orchestrator.paths import read_file

REQUIRED = ("train_images", "train_labels", "test_images", "test_labels")
VALIDATION = ("val_images", "val_labels")
DAMAGED = (OSError, ValueError, EOFError, LookupError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def load(config: Data, raw: Path) -> Parts:
    """The arrays of `config.path`; ConfigurationError names the key that cannot be used.

    Images are (n, H, W) or (n, H, W, C) uint8, labels (n,) or (n, 1) integers; `classes` holds names, one a class.
    `val_images` and `val_labels` are the validation part where both exist.
    """
    path = _path(config)
    arrays = _read(path)
    parts = {split: _part(path, arrays, split) for split in ("train", "val", "test") if f"{split}_images" in arrays}
    if "classes" in arrays:
        classes = checks.names(f"data.path = {path}: classes", arrays["classes"])
    else:
        classes = checks.numbered(parts["train"].labels)
    return Parts(parts["train"], parts.get("val"), parts["test"], classes)


def identity(config: Data) -> list[Any]:
    """Where the file is, its bytes and its time."""
    path = _path(config)
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _path(config: Data) -> Path:
    if config.path is None:
        raise ConfigurationError("data.path is missing: data.name = npz needs an .npz file, give --set data.path=FILE.npz")
    return read_file(config.path, "data.path", f"data.name = npz needs an .npz file with the keys {', '.join(REQUIRED)}")


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("it is a single array")
        with loaded:
            known = [key for key in (*REQUIRED, *VALIDATION, "classes") if key in loaded.files]
            arrays: dict[str, NDArray[Any]] = {key: loaded[key] for key in known}
    except DAMAGED as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(
            f"data.path = {path} cannot be read as .npz ({reason}): write it again with numpy.savez"
        ) from error
    wanted = REQUIRED + (VALIDATION if any(key in arrays for key in VALIDATION) else ())
    if missing := [key for key in wanted if key not in arrays]:
        raise ConfigurationError(f"data.path = {path} has no {' and no '.join(missing)}: the keys needed are {', '.join(wanted)}")
    return arrays


def _part(path: Path, arrays: dict[str, NDArray[Any]], split: str) -> Part:
    images = checks.images(f"data.path = {path}: {split}_images", arrays[f"{split}_images"])
    return Part(images, checks.labels(f"data.path = {path}: {split}_labels", arrays[f"{split}_labels"], len(images)))
