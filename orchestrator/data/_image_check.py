"""Decode every image once before training: name damaged ones, count conversions, and pack them."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import data

from orchestrator.config.sizes import format_bytes
from orchestrator.core.disk import RESERVE_BYTES, free_bytes
from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.data._parts import Parts
from orchestrator.data.decoding import ImageError, decode_image
from orchestrator.data.packed import PackWriter, estimate_bytes, reduce_image

BATCH = 64  # images in each task of a process
MOST_PROCESSES = 16
# FEW: decoded sooner than processes start. MANY: slow enough for a message
FEW, MANY = 1024, 20_000
PROGRESS_S = 10.0  # between two messages about the packed images
# JPEG files are packed from at least twice the stored size, so that few details are lost
DRAFT_GAP = 2
Note = Callable[[str], None]


class Checked(NamedTuple):
    """Result of one image: path and reason if it is damaged, else its notes and packed pixels."""

    damage: tuple[str, str] | None
    notes: tuple[str, ...] = ()
    pixels: NDArray[np.uint8] | None = None


def check_images(parts: Parts, note: Note) -> dict[str, int]:
    """Decode all images as training does, and count the notes of `decode_image`.

    Args:
        parts: The data set, with the paths of its images.
        note: Called with a message if the check takes long because there are many images.

    Returns:
        The number of images with each note.

    Raises:
        ConfigurationError: Images cannot be decoded. The message names the first and gives the
            count.
        PreflightError: There is too little memory for the processes that decode.
    """
    paths = list(_paths(parts))
    if len(paths) > MANY:
        note(
            f"decoding {len(paths)} images once to find damaged files: this takes as long as "
            f"reading them in one epoch"
        )
    return _decode_all(parts, paths, None, lambda _: None)


def pack_images(parts: Parts, side: int, folder: Path, note: Note) -> dict[str, int]:
    """Decode all images, and write them to `folder` with the shorter side `side` in pixels.

    Arguments, result and errors are otherwise those of `check_images`; the disk of the folder must
    also have space.
    """
    assert parts.root is not None
    paths = sorted(_paths(parts))
    needed, free = estimate_bytes(parts.root, paths, side), free_bytes(folder)
    if free < needed + RESERVE_BYTES:
        raise PreflightError(
            f"data.pack = true needs about {format_bytes(needed)} for {len(paths)} images with a "
            f"shorter side of {side} pixels, and the disk of {folder.parent} has "
            f"{format_bytes(free)}: free some space, lower data.pack_size, or set data.pack=false"
        ).with_details("data.pack", True, (False,))
    size = f"{len(paths)} images with a shorter side of {side} pixels"
    note(f"packing {size}: about {format_bytes(needed)}")
    last = time.monotonic()
    with PackWriter(folder, np.array(paths)) as writer:

        def add(pixels: NDArray[np.uint8]) -> None:
            nonlocal last
            writer.add(pixels)
            if time.monotonic() - last >= PROGRESS_S:
                last = time.monotonic()
                note(f"packed {writer.written} of {size} ({format_bytes(writer.bytes)})")

        return _decode_all(parts, paths, side, add)


def _paths(parts: Parts) -> dict[bytes, None]:
    """Return the distinct paths of the images, in the order of the parts."""
    return dict.fromkeys(bytes(path) for part in parts.splits().values() for path in part.inputs)


def _decode_all(
    parts: Parts, paths: list[bytes], side: int | None, add: Callable[[NDArray[np.uint8]], None]
) -> dict[str, int]:
    """Decode the images in the order of `paths`; return the number of images with each note.

    Args:
        parts: The data set.
        paths: The paths of its images.
        side: Shorter side of the pixels for `add`; None for no pixels.
        add: Called with the pixels of each image, until the first damaged one.
    """
    root = parts.root
    assert root is not None
    processes = min(_processors(), MOST_PROCESSES) if len(paths) > FEW else 0
    # otherwise the seed of the processes would be drawn from the global random state
    separate_generator = torch.Generator()
    loader = data.DataLoader(
        _Images(root, np.array(paths), side),
        batch_size=BATCH,
        num_workers=processes,
        collate_fn=list,
        generator=separate_generator,
    )
    counts: Counter[str] = Counter()
    damaged: list[tuple[str, str]] = []
    try:
        for checked in chain.from_iterable(cast("Iterator[list[Checked]]", loader)):
            counts.update(checked.notes)
            if checked.damage:
                damaged.append(checked.damage)
            elif checked.pixels is not None and not damaged:
                add(checked.pixels)
    except RuntimeError as error:  # errors of an image are caught where it is decoded
        raise PreflightError(
            f"a process that decodes the images below {root} ended unexpectedly "
            f"({' '.join(str(error).split())[:200]}): free some memory"
        ).with_details("data.path", str(root), "more free memory") from error
    if damaged:
        path, reason = damaged[0]
        raise ConfigurationError(
            f"{len(damaged)} of {len(paths)} images below {root} cannot be decoded, the first is "
            f"{path} ({reason}): replace or remove them, then start again"
        ).with_details(path, reason, "an image that can be decoded")
    return dict(counts)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Images(data.Dataset[Checked]):
    """Images as a data set for a loader.

    Damage is returned as text, because an exception would reach the parent as a traceback.
    """

    def __init__(self, root: Path, paths: NDArray[np.bytes_], side: int | None) -> None:
        self.root, self.paths, self.side = root, paths, side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Checked:
        path = self.root / os.fsdecode(bytes(self.paths[index]))
        try:
            if self.side is None:
                return Checked(None, decode_image(path, 3).notes)
            image, notes = decode_image(path, 3, DRAFT_GAP * self.side)
            return Checked(None, notes, reduce_image(image, self.side))
        except ImageError as error:
            return Checked((str(path), str(error)))
