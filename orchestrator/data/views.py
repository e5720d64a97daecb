"""Deterministic augmentation: the triple (seed, view, index) fixes every crop and flip. Knows no files and no batches."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from orchestrator.data.dataset import Dataset

VERTICAL, HORIZONTAL, FLIP, AREA, RATIO, NUMBERS = range(6)
POLICIES = ("none", "crop", "crop_flip", "resized_crop_flip")
SMALLEST_AREA_FOLDER = 0.08  # torchvision's RandomResizedCrop, made for photographs
SMALLEST_AREA_ARRAYS = 0.5  # of a picture of 28 pixels 0.08 would leave a square of 8
LARGEST_RATIO = 4 / 3


class Views:
    """The augmented versions of a training set of `count` samples.

    The numbers of a view are drawn for the whole set at once, so the picture of a sample does not depend on the batch,
    rank or trial that asks for it. `pad` is in pixels (crop, crop_flip). View None is the clean view.
    """

    def __init__(self, policy: str, seed: int, count: int, pad: int) -> None:
        assert policy in POLICIES, policy
        self.policy, self.seed, self.count, self.pad = policy, seed, count, pad
        self._drawn: tuple[int, NDArray[np.float64]] | None = None

    @classmethod
    def of(cls, dataset: Dataset, seed: int) -> "Views":
        """The views of a data set's training part under its own policy, padded by an eighth of the side."""
        return cls(dataset.augmentation, seed, len(dataset.train), min(dataset.shape[1:]) // 8)

    def numbers(self, view: int) -> NDArray[np.float64]:
        """(count, 5) uniform in [0, 1): vertical place, horizontal place, flip, area, ratio; kept for the last view drawn."""
        if self._drawn is None or self._drawn[0] != view:
            self._drawn = view, np.random.default_rng([self.seed, view]).random((self.count, NUMBERS))
        return self._drawn[1]

    def apply(self, view: int | None, index: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """The pictures (B, H, W, C) uint8 of the samples `index` (B,) int64 in a view, from their `images` (B, H, W, C) uint8.

        `index` on the CPU spares a wait for the device on which `images` are.
        """
        if view is None or self.policy == "none":
            return images
        numbers = self.numbers(view)[index.cpu().numpy()]
        if self.policy == "resized_crop_flip":
            return _resized(images, numbers)
        return _shifted(images, numbers, self.pad, flips=self.policy == "crop_flip")


def boxes(numbers: NDArray[np.float64], height: int, width: int, smallest_area: float) -> NDArray[np.float64]:
    """(B, 4) left, top, right, bottom in pixels of a crop of random area and ratio, from `numbers` (B, 5).

    As torchvision's RandomResizedCrop, but a side that does not fit is shortened instead of being drawn again: each
    crop needs the same count of numbers.
    """
    area = height * width * (smallest_area + (1 - smallest_area) * numbers[:, AREA])
    ratio = np.exp((2 * numbers[:, RATIO] - 1) * math.log(LARGEST_RATIO))
    crop_width, crop_height = np.minimum(np.sqrt(area * ratio), width), np.minimum(np.sqrt(area / ratio), height)
    left, top = numbers[:, HORIZONTAL] * (width - crop_width), numbers[:, VERTICAL] * (height - crop_height)
    return np.stack([left, top, left + crop_width, top + crop_height], axis=1)


def flipped(numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(B,) whether a sample is mirrored, from `numbers` (B, 5)."""
    mirrored: NDArray[np.bool_] = numbers[:, FLIP] < 0.5
    return mirrored


def _shifted(images: torch.Tensor, numbers: NDArray[np.float64], pad: int, flips: bool) -> torch.Tensor:
    """Padded by `pad` zeros on each side and cut back to size: one gather of pixels for the whole batch."""
    batch, height, width, channels = images.shape
    rows = np.arange(height) + np.floor(numbers[:, [VERTICAL]] * (2 * pad + 1)).astype(np.int64)
    columns = np.arange(width) + np.floor(numbers[:, [HORIZONTAL]] * (2 * pad + 1)).astype(np.int64)
    if flips:
        columns = np.where(flipped(numbers)[:, None], columns[:, ::-1], columns)
    tall, wide = height + 2 * pad, width + 2 * pad
    pixels = (np.arange(batch)[:, None, None] * tall + rows[:, :, None]) * wide + columns[:, None, :]
    padded = functional.pad(images, (0, 0, pad, pad, pad, pad)).reshape(-1, channels)
    return padded.index_select(0, torch.from_numpy(pixels.ravel()).to(images.device, non_blocking=True)).view(images.shape)


def _resized(images: torch.Tensor, numbers: NDArray[np.float64]) -> torch.Tensor:
    """A crop of each image, stretched back to its size, bilinear."""
    _, height, width, _ = images.shape
    left, top, right, bottom = boxes(numbers, height, width, SMALLEST_AREA_ARRAYS).T
    theta = np.zeros((len(numbers), 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 0, 2] = (right - left) / width, (left + right) / width - 1
    theta[:, 1, 1], theta[:, 1, 2] = (bottom - top) / height, (top + bottom) / height - 1
    theta[flipped(numbers), 0, 0] *= -1
    planes = images.permute(0, 3, 1, 2).float()
    placed = torch.from_numpy(theta).to(images.device, non_blocking=True)
    grid = functional.affine_grid(placed, list(planes.shape), align_corners=False)
    resized = functional.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return resized.round_().to(torch.uint8).permute(0, 2, 3, 1)
