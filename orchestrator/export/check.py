"""Whether an exported student says what the trained one says: on random images, and on real ones where the store has them."""

import contextlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orchestrator.core.errors import ConfigurationError
from orchestrator.data.dataset import Dataset
from orchestrator.data.pictures import decode
from orchestrator.export.formats import Predictions
from orchestrator.store.store import Store

RANDOM, REAL = 4, 16  # images of each batch


def batches(store: Store, summary: dict[str, Any]) -> dict[str, Tensor]:
    """Prepared images (B, C, H, W) float32 by where they are from.

    `random`, `one` of these alone, for any size of batch is promised, and `validation` where that can be read.
    """
    shape = summary["shape"]
    random = torch.randn(RANDOM, *shape, generator=torch.Generator().manual_seed(0))
    found = {"random": random, "one": random[:1]}
    folder = store.root / "data" / summary["fingerprint"]
    if (folder / "data.json").exists():
        with contextlib.suppress(ConfigurationError):  # damaged, or its files are gone: for who trains on it to say
            found["validation"] = prepared(pictures(Dataset.open(folder), REAL), summary["mean"], summary["std"])
    return found


def pictures(data: Dataset, count: int) -> Tensor:
    """The first pictures of the validation part, (n, C, H, W) float32 in 0..1; ConfigurationError for one that cannot be read."""
    inputs = data.validation.inputs[:count]
    if data.root is None:
        raw = torch.from_numpy(np.array(inputs))
    else:
        index = [np.arange(len(inputs))]
        raw = next(decode(data.root, inputs, index, data.shape[1], None, workers=0, pin=False))
    return raw.permute(0, 3, 1, 2).float() / 255


def prepared(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Images (B, C, H, W) in 0..1, less the mean and over the deviation of each channel."""
    middle, deviation = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return (images - middle) / deviation


@torch.no_grad()
def compared(network: Predictions, written: Predictions, given: dict[str, Tensor], tolerance: float) -> dict[str, Any]:
    """How far the logits of what was written are from those of the network: `largest` of the differences, and whether it is `same`.

    A difference may be `tolerance` times the largest logit of the network on that batch.
    """
    largest, same = 0.0, True
    for images in given.values():
        expected, found = network(images), written(images)
        if found.shape != expected.shape:
            return {"largest": float("inf"), "same": False}
        difference = float((found - expected).abs().max())
        largest, same = max(largest, difference), same and difference <= tolerance * float(expected.abs().max())
    return {"largest": largest, "same": same}
