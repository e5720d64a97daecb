"""Compare the logits of an export with those of the trained student.

The images are random, and real ones too if the store has them.
"""

import contextlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from orchestrator.core.errors import ConfigurationError
from orchestrator.data.dataset import Dataset, DataSummary
from orchestrator.data.pictures import decode
from orchestrator.export.formats import Predictions
from orchestrator.store.store import Store

RANDOM, REAL = 4, 16  # images of each batch


class Difference(NamedTuple):
    """Largest difference of logits, and whether all differences are allowed."""

    largest: float
    same: bool


def check_batches(store: Store, summary: DataSummary) -> dict[str, Tensor]:
    """Return prepared images (B, C, H, W) float32 by their origin.

    `random` are random images. `one` is a single one of them, because every batch size must work.
    `validation` are images of that part, if it can be read.
    """
    shape = summary.shape
    random = torch.randn(RANDOM, *shape, generator=torch.Generator().manual_seed(0))
    images = {"random": random, "one": random[:1]}
    folder = store.root / "data" / summary.fingerprint
    if (folder / "data.json").exists():
        # damaged data, or data without its files, are reported by training
        with contextlib.suppress(ConfigurationError):
            images["validation"] = normalize(
                pictures(Dataset.open(folder), REAL), summary.mean, summary.std
            )
    return images


def pictures(data: Dataset, count: int) -> Tensor:
    """Return the first images of the validation part, (n, C, H, W) float32 in 0..1.

    Raises:
        ConfigurationError: An image cannot be read.
    """
    inputs = data.validation.inputs[:count]
    if data.root is None:
        raw = torch.from_numpy(np.array(inputs))
    else:
        index = [np.arange(len(inputs))]
        raw = next(decode(data.root, inputs, index, data.shape[1], None, workers=0, pin=False))
    return raw.permute(0, 3, 1, 2).float() / 255


def normalize(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Return images normalized by the mean and standard deviation of each channel.

    Args:
        images: Images (B, C, H, W) in 0..1.
        mean: Mean of each channel.
        std: Standard deviation of each channel.
    """
    middle, deviation = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return (images - middle) / deviation


@torch.no_grad()
def compare_logits(
    network: Predictions, written: Predictions, batches: dict[str, Tensor], tolerance: float
) -> Difference:
    """Compare the logits of a written export with those of the network.

    Args:
        network: Function from prepared images to the network's logits.
        written: The same of the written export.
        batches: Batches of prepared images by their origin.
        tolerance: Allowed difference, as a share of the network's largest logit on that batch.
    """
    largest, same = 0.0, True
    for images in batches.values():
        expected, actual = network(images), written(images)
        if actual.shape != expected.shape:
            return Difference(float("inf"), same=False)
        difference = float((actual - expected).abs().max())
        largest = max(largest, difference)
        same = same and difference <= tolerance * float(expected.abs().max())
    return Difference(largest, same)
