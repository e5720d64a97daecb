"""Mixup and cutmix: who is blended with whom in a view, and the blending. Knows no views, labels or files."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MIXES = ("none", "mixup", "cutmix")


class Mixing(NamedTuple):
    """`partner` (n,) int64 of each sample, and `share` (n,) float32 of the sample itself in the blend.

    `boxes` (n, 4) int64: top, left, bottom, right of what cutmix takes from the partner; None for mixup.
    """

    partner: Tensor
    share: Tensor
    boxes: Tensor | None


def draw(mix: str, alpha: float, generator: np.random.Generator, count: int, height: int, width: int) -> Mixing:
    """The blends of `count` pictures of `height` x `width` pixels.

    The partners are a permutation, so that every picture is a partner once. The share is drawn from Beta(alpha, alpha)
    for each sample: mixup (arXiv 1710.09412). Cutmix (arXiv 1905.04899) then takes a box of the rest's area at a
    random centre, clipped to the picture; its share is what the box leaves.
    """
    partner = torch.from_numpy(generator.permutation(count))
    share = generator.beta(alpha, alpha, count)
    if mix == "mixup":
        return Mixing(partner, torch.from_numpy(share.astype(np.float32)), None)
    boxes = _boxes(np.sqrt(1 - share), generator.random((count, 2)), height, width)
    taken = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = 1 - taken / (height * width)
    return Mixing(partner, torch.from_numpy(left.astype(np.float32)), torch.from_numpy(boxes))


def blended(own: Tensor, other: Tensor, share: Tensor, boxes: Tensor | None) -> Tensor:
    """Both (B, C, H, W) float32 pictures in one; `own` and `other` are overwritten. `share` (B,), `boxes` (B, 4) as in Mixing.

    Products and sums apart: a fused one would round otherwise at the end of a vector, and so by place in the batch.
    """
    height, width = own.shape[2:]
    weight = share.view(-1, 1, 1, 1) if boxes is None else _outside(boxes, height, width)
    return own.mul_(weight).add_(other.mul_(1 - weight))


def _boxes(scale: NDArray[np.float64], centres: NDArray[np.float64], height: int, width: int) -> NDArray[np.int64]:
    """(n, 4) boxes of sides `scale` (n,) x the picture's, around `centres` (n, 2) in [0, 1), on whole pixels."""
    sides = np.array([height, width])
    half = scale[:, None] / 2
    edges = [np.clip(np.rint(place * sides), 0, sides) for place in (centres - half, centres + half)]
    return np.concatenate(edges, axis=1).astype(np.int64)


def _outside(boxes: Tensor, height: int, width: int) -> Tensor:
    """(B, 1, H, W) float32: zero in the box and one around it; cheaper to multiply by than a choice with `torch.where`."""
    top, left, bottom, right = (edge[:, None] for edge in boxes.unbind(1))
    row, column = (torch.arange(side, device=boxes.device) for side in (height, width))
    rows, columns = ((top <= row) & (row < bottom)).float(), ((left <= column) & (column < right)).float()
    return (1 - rows[:, :, None] * columns[:, None, :])[:, None]
