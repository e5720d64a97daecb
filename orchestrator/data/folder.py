"""Images in ImageFolder's layout, listed and opened, not decoded. Knows no splitting and no pixels."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.config import Data
from orchestrator.data.parts import Part, Parts
from orchestrator.errors import ConfigurationError
from orchestrator.paths import read_folder

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # by content, and no others: Pillow has EPS drawn by Ghostscript
THREADS, CHUNK = 8, 1000  # that open files, and files that each of them takes at a time
LAYOUT = "train/CLASS/*.jpg and val/CLASS/*.jpg or test/CLASS/*.jpg"


def load(config: Data, raw: Path) -> Parts:
    """The paths of the images below `config.path`, relative to it.

    `test/` is the test part; without it `val/` is, and with it `val/` is the validation part.
    """
    root = _root(config)
    splits = _splits(root)
    classes = _classes(root / "train")
    parts = {part: _part(root, split, classes) for part, split in splits.items()}
    return Parts(parts["train"], parts.get("validation"), parts["test"], classes, root.resolve())


def identity(config: Data) -> list[Any]:
    """Where the folder is, and path, bytes and time of every image in it."""
    root = _root(config)
    folders = [root / split / name for split in sorted(_splits(root).values()) for name in _classes(root / split)]
    return [str(root.resolve()), [_status(root, path) for folder in folders for path in _images(folder)]]


def require_images(parts: Parts) -> None:
    """ConfigurationError names the first file that is no image, and how many there are.

    Headers are read (PNG: checksums too), pixels are not: a JPEG that breaks off in its middle is found when it is decoded.
    """
    root = parts.root
    assert root is not None
    named = dict.fromkeys(bytes(path) for part in parts.splits().values() for path in part.inputs)  # once, if in two parts
    paths = [root / os.fsdecode(path) for path in named]
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        damaged = [found for chunk in pool.map(_damaged, chunks) for found in chunk]
    if damaged:
        path, reason = damaged[0]
        raise ConfigurationError(
            f"{len(damaged)} of {len(paths)} images below {root} cannot be opened, the first is {path} ({reason}): "
            "replace or remove them, then start again"
        )


def _damaged(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    from PIL import Image

    found = []
    for path in paths:
        try:
            with Image.open(path, formats=FORMATS) as image:
                image.verify()
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            found.append((path, " ".join(str(error).split())))
    return found


def _status(root: Path, path: Path) -> list[Any]:
    status = path.stat()
    return [os.fsencode(path.relative_to(root)).hex(), status.st_size, status.st_mtime_ns]


def _root(config: Data) -> Path:
    if config.path is None:
        raise ConfigurationError("data.path is missing: data.name = folder needs a folder of images, give --set data.path=FOLDER")
    if config.size is None:
        raise ConfigurationError(
            "data.size is missing: data.name = folder needs the side of its images in pixels, --set data.size=224"
        )
    return read_folder(config.path, "data.path", f"data.name = folder needs {LAYOUT} in it")


def _splits(root: Path) -> dict[str, str]:
    present = {name for name in ("train", "val", "test") if (root / name).is_dir()}
    if "train" not in present or len(present) == 1:
        missing = "train/" if "train" not in present else "val/ and no test/"
        raise ConfigurationError(f"data.path = {root} has no {missing}: data.name = folder needs {LAYOUT}")
    if present == {"train", "val", "test"}:
        return {"train": "train", "validation": "val", "test": "test"}
    return {"train": "train", "test": (present - {"train"}).pop()}


def _classes(folder: Path) -> tuple[str, ...]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be read ({error.strerror}): make it readable") from error
    if not names:
        raise ConfigurationError(f"{folder} has no class folders: data.name = folder needs {LAYOUT}")
    return tuple(names)


def _images(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be read ({error.strerror}): make it readable") from error


def _part(root: Path, split: str, classes: tuple[str, ...]) -> Part:
    if unknown := [name for name in _classes(root / split) if name not in classes]:
        raise ConfigurationError(f"{root / split / unknown[0]} is a class that {root / 'train'} does not have: add or remove it")
    paths: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = _images(root / split / name) if (root / split / name).is_dir() else []
        if not found:
            raise ConfigurationError(
                f"data.path = {root}: class {name!r} (label {label}) has 0 images in {split}/: every part needs every class, "
                f"add images ({', '.join(SUFFIXES)}) or drop the class"
            )
        paths += [os.fsencode(path.relative_to(root)) for path in found]
        labels += [label] * len(found)
    return Part(np.array(paths, dtype=bytes), np.array(labels, dtype=np.int64))
