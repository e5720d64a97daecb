"""Hold the parts of a data set in memory, and cut them with stratification."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int64]
CHUNK = 4096  # images: bounds the memory of the statistics
UNLABELLED = -1


@dataclass(frozen=True)
class Part:
    """Samples and their labels.

    `inputs` is (n, H, W, C) uint8, (n,) bytes: paths below the root folder, or (n,) int64: rows of
    `Parts.images`. `labels` is (n,).
    """

    inputs: NDArray[Any]
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Labels) -> "Part":
        """Return the samples at `index`, in that order."""
        return Part(self.inputs[index], self.labels[index])

    def followed_by(self, other: "Part") -> "Part":
        """Return a part with these samples, then those of `other`."""
        return Part(
            np.concatenate([self.inputs, other.inputs]), np.concatenate([self.labels, other.labels])
        )


class RowImages(Protocol):
    """Images that are addressed by row numbers, and decoded when the data are prepared."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (H, W, C) of every image."""

    def sample(self, rows: Labels) -> Labels:
        """Return the rows whose images represent all `rows` in statistics."""

    def decode(
        self, rows: Labels, notes: Counter[str] | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield the images (B, H, W, C) of the rows in their order; count the conversions."""


@dataclass(frozen=True)
class Parts:
    """Parts of a data source.

    `validation` is None until it is cut. `root` is the folder of images that stay on disk.
    `converted` is the number of images with each conversion that a user may not expect.
    `images` decodes inputs that are rows. `unlabelled` are inputs of training samples without a
    label; with them `train` may be empty.
    """

    train: Part
    validation: Part | None
    test: Part
    classes: tuple[str, ...]
    root: Path | None = None
    converted: dict[str, int] = field(default_factory=dict)
    images: RowImages | None = None
    unlabelled: NDArray[Any] | None = None

    def splits(self) -> dict[str, Part]:
        """Return the parts that exist, by name."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}


def apportion(counts: Labels, total: int) -> Labels:
    """Divide `total` in proportion to `counts` (K,).

    The shares sum to `total` exactly. Each class that has samples gets at least one. `total` must
    lie between the number of such classes and `counts.sum()`.
    """
    assert np.count_nonzero(counts) <= total <= counts.sum()
    exact = counts * (total / counts.sum())
    shares: Labels = np.clip(np.floor(exact).astype(np.int64), np.minimum(counts, 1), counts)
    while missing := total - int(shares.sum()):
        if missing > 0:
            shares[np.argmax(np.where(shares < counts, exact - shares, -np.inf))] += 1
        else:
            shares[np.argmin(np.where(shares > 1, exact - shares, np.inf))] -= 1
    return shares


def draw_stratified_mask(
    labels: Labels, total: int, generator: np.random.Generator
) -> NDArray[np.bool_]:
    """Return a random mask (n,) of exactly `total` samples.

    The classes have the proportions of `labels` in it.
    """
    shares = apportion(np.bincount(labels), total)
    chosen = np.zeros(len(labels), dtype=bool)
    for label, share in enumerate(shares):
        chosen[generator.permutation(np.flatnonzero(labels == label))[:share]] = True
    return chosen


def split_stratified(part: Part, total: int, generator: np.random.Generator) -> tuple[Part, Part]:
    """Cut `total` samples from a part, stratified by class.

    Returns:
        The remaining samples and the cut samples, both in their original order.
    """
    chosen = draw_stratified_mask(part.labels, total, generator)
    return part.take(np.flatnonzero(~chosen)), part.take(np.flatnonzero(chosen))


def add_label_noise(
    labels: Labels, share: float, classes: int, generator: np.random.Generator
) -> Labels:
    """Return a copy of the labels with label noise.

    Exactly round(share * n) of the n known labels become another class, each other class equally
    likely.
    """
    noisy, known = labels.copy(), np.flatnonzero(labels != UNLABELLED)
    chosen = known[generator.permutation(len(known))[: round(share * len(known))]]
    noisy[chosen] = (noisy[chosen] + generator.integers(1, classes, size=len(chosen))) % classes
    return noisy


def without_labels(inputs: NDArray[Any]) -> Part:
    """Return a part of samples whose labels are all UNLABELLED."""
    return Part(inputs, np.full(len(inputs), UNLABELLED, dtype=np.int64))


def hide_labels(labels: Labels, shown: NDArray[np.bool_]) -> Labels:
    """Return a copy of the labels with UNLABELLED where `shown` (n,) is false."""
    return np.where(shown, labels, UNLABELLED)


def channel_statistics(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of (n, H, W, C), for values in 0..1.

    A constant channel has deviation 1.
    """
    chunks = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    return chunk_statistics(chunks, images.shape[3])


def chunk_statistics(
    chunks: Iterable[NDArray[np.uint8]], channels: int
) -> tuple[list[float], list[float]]:
    """Return the same for chunks of images (B, H, W, C) with `channels` channels."""
    histogram = np.zeros((channels, 256))
    for chunk in chunks:
        for channel in range(channels):
            histogram[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    weights, values = histogram / histogram.sum(axis=1, keepdims=True), np.arange(256) / 255
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
    return mean.tolist(), np.where(std > 0, std, 1.0).tolist()
