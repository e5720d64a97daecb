"""Decodes image files into pictures of one size, in worker processes. Knows no labels and no normalisation."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils import data

from orchestrator.data.augmentation import SMALLEST_AREA_FOLDER, boxes, flipped
from orchestrator.data.decoding import ImageError, decode_image
from orchestrator.errors import ConfigurationError

CLEAN_SHARE = 224 / 256  # the clean view: the middle, as wide as 224 pixels of a short side of 256
Box = tuple[float, float, float, float]


def decode(
    root: Path,
    paths: NDArray[np.bytes_],
    batches: Sequence[NDArray[np.int64]],
    size: int,
    numbers: NDArray[np.float64] | None,
    workers: int,
    pin: bool,
) -> Iterator[torch.Tensor]:
    """A (B, size, size, 3) uint8 tensor for each of `batches`, which hold indices into `paths` (n,).

    `numbers` (n, 5) are those of a view and cut a resized crop; None gives the clean middle. The pictures do not depend
    on the number of `workers`. A file that cannot be decoded raises ConfigurationError with its path.
    """
    loader = data.DataLoader(
        _Pictures(root, paths, size, numbers),
        batch_sampler=cast("Any", [batch.tolist() for batch in batches]),
        num_workers=workers,
        collate_fn=_stack,
        pin_memory=pin,
        generator=torch.Generator(),  # or each pass would draw the seed of its workers from the trial's own random numbers
    )
    for pictures in loader:
        if isinstance(pictures, str):
            raise ConfigurationError(pictures)
        yield pictures


class _Pictures(data.Dataset[torch.Tensor | str]):
    """Damage is returned as text: an exception would reach the parent as a traceback."""

    def __init__(self, root: Path, paths: NDArray[np.bytes_], size: int, numbers: NDArray[np.float64] | None) -> None:
        self.root, self.paths, self.size, self.numbers = root, paths, size, numbers

    def __getitem__(self, index: int) -> torch.Tensor | str:
        path = self.root / os.fsdecode(bytes(self.paths[index]))
        numbers = None if self.numbers is None else self.numbers[[index]]
        try:
            image = decode_image(path, 3).image
        except ImageError as error:
            return f"{path} cannot be decoded ({error}): replace or remove this image, then start again"
        box = _middle(image.height, image.width) if numbers is None else _crop(numbers, image.height, image.width)
        picture = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        if numbers is not None and flipped(numbers)[0]:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(picture))


def _middle(height: int, width: int) -> Box:
    side = min(height, width) * CLEAN_SHARE
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _crop(numbers: NDArray[np.float64], height: int, width: int) -> Box:
    left, top, right, bottom = boxes(numbers, height, width, SMALLEST_AREA_FOLDER)[0].tolist()
    return left, top, min(right, width), min(bottom, height)  # a sum may exceed the side by one rounding


def _stack(pictures: list[torch.Tensor | str]) -> torch.Tensor | str:
    damaged = [picture for picture in pictures if isinstance(picture, str)]
    return damaged[0] if damaged else torch.stack(cast("list[torch.Tensor]", pictures))
