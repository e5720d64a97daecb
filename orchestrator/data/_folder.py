"""List images and labels of a folder in ImageFolder's layout, without decoding."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_folder
from orchestrator.data import checks
from orchestrator.data._listing import LAYOUT, SUFFIXES, Listing, list_images
from orchestrator.data._parts import Part, Parts, without_labels

# increase when the same files give other images, so that stored results are not reused
VERSION = "2"


def load(config: Data, raw: Path) -> Parts:
    """Return the paths of the images below `config.path`, relative to it.

    Raises:
        ConfigurationError: A part, a class, or the images of a class are missing.
    """
    root = _root(config)
    listing = list_images(root)
    first = root / next(iter(listing.splits.values()))
    classes = tuple(
        checks.require_printable(f"the class folder {first / each!r}", each, str(first / each))
        for each in listing.classes
    )
    parts = {
        part: _part(root, split, listing, part, classes) for part, split in listing.splits.items()
    }
    unlabelled = np.array([os.fsencode(path) for path in listing.unlabelled], dtype=bytes)
    return Parts(
        parts.get("train", without_labels(unlabelled[:0])),
        parts.get("validation"),
        parts["test"],
        classes,
        root.resolve(),
        unlabelled=unlabelled if len(unlabelled) else None,
    )


def identity(config: Data) -> list[Any]:
    """Return the path of the folder, and the path, bytes and time of every image in it."""
    root = _root(config)
    listing = list_images(root)
    parts = sorted(listing.splits, key=listing.splits.__getitem__)
    paths = [path for part in parts for images in listing.images[part].values() for path in images]
    paths += listing.unlabelled
    return [VERSION, str(root.resolve()), [_status(root, path) for path in paths]]


def list_unread(config: Data) -> list[str]:
    """Return the kinds of files in the folder that are not read, each with its count."""
    return list_images(_root(config)).unread.in_words()


def _status(root: Path, path: str) -> list[Any]:
    try:
        status = os.stat(root / path)
    except OSError as error:  # removed after it was listed
        raise ConfigurationError(
            f"{root / path} cannot be read ({error.strerror}): it changed while the run "
            f"started: start the run again"
        ).with_details(str(root / path), error.strerror, "a file that can be read") from error
    return [os.fsencode(path).hex(), status.st_size, status.st_mtime_ns]


def _root(config: Data) -> Path:
    path = checks.require_path(config, "a folder of images", "FOLDER")
    checks.require_size(config)
    return read_folder(path, "data.path", f"data.name = folder needs {LAYOUT} in it")


def _part(root: Path, split: str, listing: Listing, part: str, classes: tuple[str, ...]) -> Part:
    images = listing.images[part]
    known = set(classes)
    if unknown := [name for name in images if name not in known]:
        raise ConfigurationError(
            f"{root / split / unknown[0]} is a class folder that "
            f"{root / next(iter(listing.splits.values()))} does not have: "
            f"add it there, or remove it"
        ).with_details(str(root / split / unknown[0]), unknown[0], classes)
    if empty := [name for name in classes if not images.get(name)]:
        unread = listing.unread.restrict_to(os.path.join(split, empty[0])).as_clause()
        raise ConfigurationError(
            f"data.path = {root}: class {empty[0]!r} (label {classes.index(empty[0])}) has 0 "
            f"images in {split}/: every part needs images of every class; add images "
            f"({', '.join(SUFFIXES)}) or remove the class{unread}"
        ).with_details(str(root / split / empty[0]), 0, (1, None))
    paths = [os.fsencode(path) for name in classes for path in images[name]]
    return Part(
        np.array(paths, dtype=bytes),
        np.repeat(np.arange(len(classes)), [len(images[name]) for name in classes]),
    )
