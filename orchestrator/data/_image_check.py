"""Decode every image of a data set once before training: name damaged ones, count conversions."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import data

from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.data._parts import Parts
from orchestrator.data.decoding import ImageError, decode_image

BATCH = 64  # images in each task of a process
MOST_PROCESSES = 16
# FEW: decoded sooner than processes start. MANY: slow enough for a message
FEW, MANY = 1024, 20_000
# path and reason of an image that cannot be used; the notes of a decoded one
Checked = tuple[list[tuple[str, str]], tuple[str, ...]]


def check_images(parts: Parts, note: Callable[[str], None]) -> dict[str, int]:
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
    root = parts.root
    assert root is not None
    paths = np.array(
        list(dict.fromkeys(bytes(path) for part in parts.splits().values() for path in part.inputs))
    )
    processes = min(_processors(), MOST_PROCESSES) if len(paths) > FEW else 0
    if len(paths) > MANY:
        note(
            f"decoding {len(paths)} images once to find damaged files: this takes as long as "
            f"reading them in one epoch"
        )
    # otherwise the seed of the processes would be drawn from the global random state
    separate_generator = torch.Generator()
    loader = data.DataLoader(
        _Images(root, paths),
        batch_size=BATCH,
        num_workers=processes,
        collate_fn=list,
        generator=separate_generator,
    )
    counts: Counter[str] = Counter()
    damaged: list[tuple[str, str]] = []
    try:
        for reasons, notes in chain.from_iterable(cast("Iterator[list[Checked]]", loader)):
            counts.update(notes)
            damaged += reasons
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

    def __init__(self, root: Path, paths: NDArray[np.bytes_]) -> None:
        self.root, self.paths = root, paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Checked:
        path = self.root / os.fsdecode(bytes(self.paths[index]))
        try:
            return [], decode_image(path, 3).notes
        except ImageError as error:
            return [(str(path), str(error))], ()
