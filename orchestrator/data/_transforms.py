"""Draw the transforms of a view for every sample, and apply them to images."""

import math
from collections.abc import Mapping
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.data._operations import BRIGHTNESS, COLOR, CONTRAST, OPERATIONS, apply_operations
from orchestrator.data._streams import Stream, open_stream
from orchestrator.data.memory import to_device

# a stream for each transform: a further one does not change the numbers of the others
STREAMS = {
    "randaugment": Stream.RANDAUGMENT,
    "trivial_augment": Stream.TRIVIAL_AUGMENT,
    "color_jitter": Stream.COLOR_JITTER,
    "random_erasing": Stream.RANDOM_ERASING,
}
BINS = 31  # magnitudes of an operation, as in torchvision
JITTERED = np.array(list(permutations((BRIGHTNESS, CONTRAST, COLOR))), dtype=np.uint8)
# shares of the image's area, and aspect ratios, as in torchvision's RandomErasing
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)


class Rounds(NamedTuple):
    """Operations of every sample, one after the other: (n, R) uint8, and their strengths (n, R)."""

    operations: NDArray[np.uint8]
    levels: NDArray[np.float32]


class Transforms:
    """Transforms of the samples of a view.

    Args:
        settings: The transforms by name, as `Data.transforms` returns them.
        seed: Seed of the views.
        view: Index of the view.
        count: Number of samples.
        height: Image height in pixels.
        width: Image width in pixels.
        fill: (C,), the pixel value of erased areas.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        seed: int,
        view: int,
        count: int,
        height: int,
        width: int,
        fill: tuple[int, ...],
    ) -> None:
        streams = {name: open_stream(seed, view, STREAMS[name]) for name in settings}
        rounds = []
        if chosen := settings.get("randaugment"):
            levels = magnitudes(height, width, wide=False)[:, chosen["magnitude"], None]
            draw = streams["randaugment"]
            rounds.append(_draw_operations(draw, count, chosen["operations"], levels))
        if "trivial_augment" in settings:
            levels = magnitudes(height, width, wide=True)
            rounds.append(_draw_operations(streams["trivial_augment"], count, 1, levels))
        if strength := settings.get("color_jitter"):
            rounds.append(_draw_jitter(streams["color_jitter"], count, strength))
        none = Rounds(np.empty((count, 0), np.uint8), np.empty((count, 0), np.float32))
        self.rounds = Rounds(
            *(np.concatenate(each, axis=1) for each in zip(none, *rounds, strict=True))
        )
        self.boxes = None
        if probability := settings.get("random_erasing"):
            self.boxes = _draw_boxes(streams["random_erasing"], count, probability, height, width)
        self.fill = torch.tensor(fill, dtype=torch.uint8)

    def apply(self, images: Tensor, samples: NDArray[np.int64]) -> Tensor:
        """Return the transformed images.

        Args:
            images: (B, H, W, C) uint8.
            samples: (B,), the samples that the images show.

        Returns:
            (B, H, W, C) uint8, on the device of the images.
        """
        planes = images.permute(0, 3, 1, 2).contiguous()
        operations, levels = self.rounds.operations[samples], self.rounds.levels[samples]
        for number in range(operations.shape[1]):
            planes = apply_operations(
                planes, operations[:, number], levels[:, number].astype(np.float64)
            )
        if self.boxes is not None:
            boxes = to_device(torch.from_numpy(self.boxes[samples]), images.device)
            planes = _erase(planes, boxes, to_device(self.fill, images.device))
        return planes.permute(0, 2, 3, 1)


def magnitudes(height: int, width: int, wide: bool) -> NDArray[np.float32]:
    """Return (operations, BINS) strengths, as torchvision's RandAugment has them.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        wide: Whether they are those of TrivialAugmentWide.
    """
    largest = {
        **dict.fromkeys(("shear_x", "shear_y"), 0.99 if wide else 0.3),
        "translate_x": 32 if wide else 150 / 331 * width,
        "translate_y": 32 if wide else 150 / 331 * height,
        "rotate": 135 if wide else 30,
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), 0.99 if wide else 0.9),
    }
    table = np.zeros((len(OPERATIONS), BINS), dtype=np.float32)
    for name, most in largest.items():
        table[OPERATIONS.index(name)] = np.linspace(0, most, BINS)
    lost_bits = np.arange(BINS) / ((BINS - 1) / (6 if wide else 4))
    table[OPERATIONS.index("posterize")] = np.rint(8 - lost_bits)
    table[OPERATIONS.index("solarize")] = np.linspace(1, 0, BINS)
    return table


UNSIGNED = ("identity", "posterize", "solarize", "autocontrast", "equalize")
IS_SIGNED = ~np.isin(OPERATIONS, UNSIGNED)


def _draw_operations(
    generator: np.random.Generator, count: int, operations: int, levels: NDArray[np.float32]
) -> Rounds:
    """Draw operations, bins of `levels` (operations, bins) and signs uniformly."""
    numbers = generator.random((3, count, operations), dtype=np.float32)
    drawn, bins = (
        np.floor(values * number).astype(np.uint8)
        for values, number in zip(numbers, levels.shape, strict=False)
    )
    negative = IS_SIGNED[drawn] & (numbers[2] < 0.5)
    strengths = levels[drawn, bins]
    return Rounds(drawn, np.where(negative, -strengths, strengths))


def _draw_jitter(generator: np.random.Generator, count: int, strength: float) -> Rounds:
    """Draw orders of brightness, contrast and colour, and factors up to `strength` from 1."""
    numbers = generator.random((count, 4), dtype=np.float32)
    order = JITTERED[np.floor(numbers[:, 3] * len(JITTERED)).astype(np.uint8)]
    return Rounds(order, np.float32(strength) * (2 * numbers[:, :3] - 1))


def _draw_boxes(
    generator: np.random.Generator, count: int, probability: float, height: int, width: int
) -> NDArray[np.int64]:
    """Return (n, 4) top, left, bottom, right of the erased area in pixels, zeros for none.

    They follow torchvision's RandomErasing with one difference: a side that does not fit is
    shortened rather than drawn again, so that each sample needs the same number of random numbers.
    """
    chosen, area, ratio, vertical, horizontal = generator.random((count, 5)).T
    pixels = height * width * (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area)
    low, high = (math.log(bound) for bound in ERASED_RATIO)
    aspect = np.exp(low + (high - low) * ratio)
    tall = np.minimum(np.rint(np.sqrt(pixels * aspect)), height - 1)
    wide = np.minimum(np.rint(np.sqrt(pixels / aspect)), width - 1)
    top = np.floor(vertical * (height - tall + 1))
    left = np.floor(horizontal * (width - wide + 1))
    boxes = np.stack([top, left, top + tall, left + wide], axis=1).astype(np.int64)
    boxes[chosen >= probability] = 0
    return boxes


def _erase(images: Tensor, boxes: Tensor, fill: Tensor) -> Tensor:
    """Return images (B, C, H, W) with the value `fill` (C,) in their `boxes` (B, 4)."""
    top, left, bottom, right = (edge[:, None] for edge in boxes.unbind(1))
    row, column = (torch.arange(side, device=images.device) for side in images.shape[2:])
    rows, columns = (top <= row) & (row < bottom), (left <= column) & (column < right)
    erased = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(erased, fill[:, None, None], images)
