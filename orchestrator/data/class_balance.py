"""Balance classes: weights of the classes, and draws of equally many samples of each."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import ConfigurationError
from orchestrator.data._streams import Stream, open_stream
from orchestrator.data.dataset import DataSummary

if TYPE_CHECKING:
    from torch import Tensor


def require_class_weights(data: Data, classes: int) -> None:
    """Require one weight for each class, if weights are listed.

    Raises:
        ConfigurationError: There are fewer or more.
    """
    weights = data.class_weights
    if isinstance(weights, tuple) and len(weights) != classes:
        raise ConfigurationError(
            f"data.class_weights has {len(weights)} weights for {classes} classes: give one "
            f"positive number for each class in the order of their labels, or balanced"
        ).with_details("data.class_weights", weights, f"{classes} weights")


def compute_class_weights(data: Data, class_sizes: Sequence[int]) -> "Tensor | None":
    """Return the weight of each class, (K,) float32; None without `data.class_weights`.

    The balanced weight is n / (K n_k) for the n_k of n labelled training samples: every class has
    the same total weight, and the mean over the samples is 1.

    Args:
        data: The data section of the configuration.
        class_sizes: Labelled training samples of each class.

    Raises:
        ConfigurationError: The number of listed weights is not that of the classes.
    """
    import torch  # the explanation of a run does not need it

    weights = _weigh_classes(data, class_sizes)
    return None if weights is None else torch.from_numpy(weights)


def _weigh_classes(data: Data, class_sizes: Sequence[int]) -> NDArray[np.float32] | None:
    if data.class_weights is None:
        return None
    require_class_weights(data, len(class_sizes))
    if isinstance(data.class_weights, tuple):
        return np.array(data.class_weights, dtype=np.float32)
    sizes = np.array(class_sizes, dtype=np.float64)
    balanced: NDArray[np.float64] = sizes.sum() / (len(sizes) * np.maximum(sizes, 1))
    return balanced.astype(np.float32)


def explain_balance(data: Data, summary: DataSummary) -> dict[str, str]:
    """Return the lines of a plan about class weights and balanced draws, by their titles."""
    lines, sizes = {}, summary.class_sizes
    weights = _weigh_classes(data, sizes)
    if weights is not None:
        low, high = int(weights.argmin()), int(weights.argmax())
        kind = "balanced" if data.class_weights == "balanced" else "given"
        spread = (
            f"{weights[low]:.3g} (class {summary.classes[low]}) to {weights[high]:.3g} (class "
            f"{summary.classes[high]})"
        )
        spread = "the same for all classes" if weights[low] == weights[high] else spread
        lines["class weights"] = f"{kind}, {spread}, in the cross entropy of the labels"
    if data.sampling == "balanced":
        each = sum(sizes) / len(sizes)
        often, seldom = (each / max(size, 1) for size in (min(sizes), max(sizes)))
        lines["sampling"] = (
            f"balanced: {each:.4g} draws per class and epoch, {often:.3g} for a sample of the "
            f"smallest class and {seldom:.3g} for one of the largest"
        )
    return lines


def draw_balanced(
    labels: NDArray[np.int64], count: int, epoch: int, seed: int
) -> NDArray[np.int64]:
    """Return the samples of an epoch, (count,), with equally many of each class.

    Draw number i since the first epoch is of the class i mod K, so that the classes differ by at
    most one draw, in each epoch and in total. The samples of a class come from consecutive
    permutations, continued from the previous epoch. The order within the epoch is random.

    Args:
        labels: (n,) class of each sample; every class up to the largest has a sample or is left
            out.
        count: Number of samples to draw.
        epoch: The epoch, from 0.
        seed: Seed of the draws.
    """
    classes = np.unique(labels)
    start, drawn = epoch * count, []
    for position, label in enumerate(classes.tolist()):
        first, end = (-(-(total - position) // len(classes)) for total in (start, start + count))
        drawn.append(
            _continue_permutations(np.flatnonzero(labels == label), first, end, seed, label)
        )
    order = open_stream(seed, epoch, Stream.BALANCED_ORDER).permutation(count)
    return np.concatenate(drawn)[order]


def _continue_permutations(
    members: NDArray[np.int64], first: int, end: int, seed: int, label: int
) -> NDArray[np.int64]:
    """Return draws `first` to `end` from consecutive permutations of the members of a class."""
    rounds = range(first // len(members), -(-end // len(members)))
    orders = [
        open_stream(seed, each, Stream.BALANCED_CLASS, label).permutation(members)
        for each in rounds
    ]
    skipped = rounds.start * len(members)
    empty = np.empty(0, dtype=np.int64)
    return np.concatenate([empty, *orders])[first - skipped : end - skipped]
