"""Draw and apply mixup and cutmix."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MIXES = ("none", "mixup", "cutmix")


class Mixing(NamedTuple):
    """Blends of a view.

    Attributes:
        partner: (n,) int64, the partner of each sample.
        share: (n,) float32, the share of the sample itself in the blend.
        boxes: (n, 4) int64: top, left, bottom, right of the region that cutmix takes from the
            partner; None for mixup.
    """

    partner: Tensor
    share: Tensor
    boxes: Tensor | None


def draw_mixing(
    mix: str, alpha: float, generator: np.random.Generator, count: int, height: int, width: int
) -> Mixing:
    """Draw the blends of `count` images of `height` x `width` pixels.

    The partners are a permutation, so that every image is a partner once. The share of each sample
    is drawn from Beta(alpha, alpha), as in mixup (arXiv 1710.09412). Cutmix (arXiv 1905.04899)
    takes a box of the remaining area at a random centre, clipped to the image. Its share is the
    area outside the box.
    """
    partner = torch.from_numpy(generator.permutation(count))
    share = generator.beta(alpha, alpha, count)
    if mix == "mixup":
        return Mixing(partner, torch.from_numpy(share.astype(np.float32)), None)
    boxes = _boxes(np.sqrt(1 - share), generator.random((count, 2)), height, width)
    taken = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = 1 - taken / (height * width)
    return Mixing(partner, torch.from_numpy(left.astype(np.float32)), torch.from_numpy(boxes))


def blend(images: Tensor, partners: Tensor, share: Tensor, boxes: Tensor | None) -> Tensor:
    """Blend images with those of their partners.

    Products and sums are separate operations. A fused one would round differently at the end of a
    vector, and the result would depend on the position in the batch.

    Args:
        images: (B, C, H, W) float32; overwritten.
        partners: (B, C, H, W) float32, the images of the partners; overwritten.
        share: (B,), as in `Mixing`.
        boxes: (B, 4), as in `Mixing`.

    Returns:
        (B, C, H, W) float32.
    """
    height, width = images.shape[2:]
    weight = share.view(-1, 1, 1, 1) if boxes is None else _outside(boxes, height, width)
    return images.mul_(weight).add_(partners.mul_(1 - weight))


def _boxes(
    scale: NDArray[np.float64], centres: NDArray[np.float64], height: int, width: int
) -> NDArray[np.int64]:
    """Return (n, 4) boxes on whole pixels.

    The `centres` (n, 2) lie in [0, 1). The sides are `scale` (n,) times those of the image.
    """
    sides = np.array([height, width])
    half = scale[:, None] / 2
    edges = [
        np.clip(np.rint(place * sides), 0, sides) for place in (centres - half, centres + half)
    ]
    return np.concatenate(edges, axis=1).astype(np.int64)


def _outside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return (B, 1, H, W) float32: zero inside the box, one outside.

    A multiplication by it is cheaper than a selection with `torch.where`.
    """
    top, left, bottom, right = (edge[:, None] for edge in boxes.unbind(1))
    row, column = (torch.arange(side, device=boxes.device) for side in (height, width))
    rows = ((top <= row) & (row < bottom)).float()
    columns = ((left <= column) & (column < right)).float()
    return (1 - rows[:, :, None] * columns[:, None, :])[:, None]
