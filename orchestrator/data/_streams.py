"""Number the streams of random numbers that are drawn from a seed and an epoch or view."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Purpose of random numbers; crops and flips of a view have no number, which equals 0.

    Mixing and held-out samples share one, because another number would change existing results.
    """

    ORDER = 1
    HELD_OUT = 2
    MIXING = 2
    LABELLED = 3
    RANDAUGMENT = 4
    TRIVIAL_AUGMENT = 5
    COLOR_JITTER = 6
    RANDOM_ERASING = 7
    USER_TRANSFORM = 8
    BALANCED_ORDER = 9
    BALANCED_CLASS = 10
    STRONG_VIEW = 11


def open_stream(
    seed: int, epoch_or_view: int, stream: Stream, item: int | None = None
) -> np.random.Generator:
    """Return a generator that the arguments determine.

    Args:
        seed: Seed of the orders or views.
        epoch_or_view: Number of the epoch, of the round or of the view.
        stream: Purpose of the random numbers.
        item: A sample or class with numbers of its own, from 0. It is counted from 1, because numpy
            ignores a 0 at the end of a seed.
    """
    items = [] if item is None else [item + 1]
    return np.random.default_rng([seed, epoch_or_view, stream, *items])


def derive_seed(seed: int, stream: Stream) -> int:
    """Return a seed of 32 bits for a purpose that has several streams of its own."""
    return int(np.random.SeedSequence(seed, spawn_key=(stream,)).generate_state(1)[0])
