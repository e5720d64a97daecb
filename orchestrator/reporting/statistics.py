"""What paired seeds say: means, differences with their t intervals, and Holm's correction. Knows numbers and no method.

A pair is one seed: two methods that were trained with it had the same first weights, batches and views, so that what they share
drops out of their difference. What follows holds for differences that are about normal; accuracies over seeds are.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.special import stdtr, stdtrit

LEVEL = 0.95  # of an interval
ROUNDING = 1e-12  # relative: differences that vary less are the same number, subtracted in other orders
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Mean:
    """The mean of so many values with its standard error, which is None of fewer than two."""

    value: float
    error: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, its standard error, its t interval (`low`, `high`) and the two-sided p of a paired t-test.

    `error` and all that follows from it is None of fewer than two pairs. Where all differences are one number, which is not zero,
    there is no interval and no `p` either: such data say nothing of how much the next seed would differ.
    """

    mean: float
    error: float | None
    low: float | None
    high: float | None
    p: float | None
    pairs: int


def mean(values: Sequence[float]) -> Mean:
    """Of one value or more; ValueError of none."""
    if not values:
        raise ValueError("a mean of no values")
    array = np.asarray(values, dtype=np.float64)
    return Mean(float(array.mean()), _error(array) if len(array) > 1 else None, len(array))


def difference(mine: Mapping[int, float], theirs: Mapping[int, float], level: float = LEVEL) -> Difference | None:
    """`mine` less `theirs`, by seed, over the seeds that both have; None where they share none.

    The interval is mean ± t(level, n - 1) error, which covers the true difference in `level` of all repetitions.
    """
    shared = sorted(set(mine) & set(theirs))
    if not shared:
        return None
    each = np.array([mine[seed] - theirs[seed] for seed in shared], dtype=np.float64)
    found, pairs = float(each.mean()), len(each)
    if pairs < 2:
        return Difference(found, None, None, None, None, pairs)
    error, scale = _error(each), max(map(abs, (*mine.values(), *theirs.values())))
    if error * math.sqrt(pairs) <= ROUNDING * scale:
        same = abs(found) <= ROUNDING * scale
        return Difference(0.0, 0.0, 0.0, 0.0, 1.0, pairs) if same else Difference(found, 0.0, None, None, None, pairs)
    reach = float(stdtrit(pairs - 1, (1 + level) / 2)) * error
    p = float(2 * stdtr(pairs - 1, -abs(found) / error))
    return Difference(found, error, found - reach, found + reach, p, pairs)


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Corrected for their number (Holm 1979): the smallest times m, the next times m - 1, ..., never falling, at most 1.

    If all below a rate are claimed, the chance of any false claim is that rate at most, however the tests depend on one another.
    """
    corrected, largest = dict[Name, float](), 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return corrected


def _error(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))
