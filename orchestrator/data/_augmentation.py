"""Crops and flips of a whole batch as tensor operations, from numbers that were drawn before. Knows no views and no files."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

VERTICAL, HORIZONTAL, FLIP, AREA, RATIO, NUMBERS = range(6)  # the columns of a sample's numbers
SMALLEST_AREA_FOLDER = 0.08  # torchvision's RandomResizedCrop, made for photographs
SMALLEST_AREA_ARRAYS = 0.5  # of a picture of 28 pixels 0.08 would leave a square of 8
LARGEST_RATIO = 4 / 3


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


def shifts(numbers: NDArray[np.float64], height: int, width: int, pad: int, flips: bool) -> NDArray[np.int64]:
    """(n,) what `shifted` wants, from `numbers` (n, 5): the first pixel of each crop, counted from its padded picture's."""
    top, left = (np.floor(numbers[:, place] * (2 * pad + 1)).astype(np.int64) for place in (VERTICAL, HORIZONTAL))
    tall, wide = height + 2 * pad, width + 2 * pad
    if not flips:
        return top * wide + left
    mirrored = flipped(numbers)
    return (mirrored * tall + top) * wide + np.where(mirrored, 2 * pad - left, left)


def shifted(images: Tensor, first: Tensor, pad: int, flips: bool) -> Tensor:
    """`images` (B, H, W, C) padded by `pad` zeros on each side and cut back to size from the pixels `first` (B,) of `shifts`.

    With `flips` each picture is followed by its mirrored one. A crop is a gather of whole rows: 9 us for 64 pictures of
    CIFAR, where a gather of pixels takes 115 us.
    """
    batch, height, width, channels = images.shape
    versions = torch.stack([images, images.flip(2)], dim=1).flatten(0, 1) if flips else images
    padded = functional.pad(versions, (0, 0, pad, pad, pad, pad))
    pixels, wide = padded.numel() // channels, width + 2 * pad
    rows = padded.reshape(-1).as_strided((pixels - width + 1, width * channels), (channels, 1))  # one from every pixel on
    pictures = torch.arange(0, pixels, pixels // batch, device=images.device)
    lines = torch.arange(0, height * wide, wide, device=images.device)
    return rows.index_select(0, ((first + pictures)[:, None] + lines).view(-1)).view(images.shape)


def stretches(numbers: NDArray[np.float64], height: int, width: int) -> NDArray[np.float32]:
    """(n, 2, 3) what `stretched` wants, from `numbers` (n, 5): where each pixel is looked up, as `affine_grid` reads it."""
    left, top, right, bottom = boxes(numbers, height, width, SMALLEST_AREA_ARRAYS).T
    theta = np.zeros((len(numbers), 2, 3), dtype=np.float32)
    theta[:, 0, 0], theta[:, 0, 2] = (right - left) / width, (left + right) / width - 1
    theta[:, 1, 1], theta[:, 1, 2] = (bottom - top) / height, (top + bottom) / height - 1
    theta[flipped(numbers), 0, 0] *= -1
    return theta


def stretched(images: Tensor, theta: Tensor) -> Tensor:
    """A crop of each of `images` (B, H, W, C) uint8, stretched back to its size, bilinear; `theta` (B, 2, 3) of `stretches`."""
    planes = images.permute(0, 3, 1, 2).float()
    grid = functional.affine_grid(theta, list(planes.shape), align_corners=False)
    resized = functional.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return resized.round_().to(torch.uint8).permute(0, 2, 3, 1)
