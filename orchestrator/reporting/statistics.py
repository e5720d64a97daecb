"""Compute statistics of paired seeds: means, differences with t intervals, and Holm's correction.

A pair is one seed. Two methods that were trained with it had the same initial weights, batches and
views, so that shared effects cancel in their difference. The results hold for differences that are
approximately normal; accuracies over seeds are.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

LEVEL = 0.95  # confidence level of an interval
# Relative: differences that vary less are the same number, subtracted in different orders
ROUNDING = 1e-12
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Mean:
    """Mean of `count` values with its standard error, which is None for fewer than two."""

    value: float
    error: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with the results of a paired t-test.

    `error` is the standard error, `low` and `high` are the t interval, and `p` is two-sided. They
    are None for fewer than two pairs. If all differences are the same number and it is not zero,
    there is no interval and no `p` either. Such data do not show how much the next seed would
    differ.
    """

    mean: float
    error: float | None
    low: float | None
    high: float | None
    p: float | None
    pairs: int


def mean(values: Sequence[float]) -> Mean:
    """Return the mean of one or more values. Raise ValueError if there are none."""
    if not values:
        raise ValueError("a mean of no values")
    array = np.asarray(values, dtype=np.float64)
    return Mean(float(array.mean()), _error(array) if len(array) > 1 else None, len(array))


def difference(
    mine: Mapping[int, float], theirs: Mapping[int, float], level: float = LEVEL
) -> Difference | None:
    """Return the paired difference `mine` - `theirs` over the seeds that both have.

    The interval is mean ± t(level, n - 1) error. It covers the true difference in `level` of all
    repetitions.

    Args:
        mine: Values by seed.
        theirs: Values by seed.
        level: The confidence level of the interval.

    Returns:
        The difference, or None if no seed is shared.
    """
    shared = sorted(set(mine) & set(theirs))
    if not shared:
        return None
    each = np.array([mine[seed] - theirs[seed] for seed in shared], dtype=np.float64)
    average, pairs = float(each.mean()), len(each)
    if pairs < 2:
        return Difference(average, None, None, None, None, pairs)
    error, scale = _error(each), max(map(abs, (*mine.values(), *theirs.values())))
    if error * math.sqrt(pairs) <= ROUNDING * scale:
        same = abs(average) <= ROUNDING * scale
        if same:
            return Difference(0.0, 0.0, 0.0, 0.0, 1.0, pairs)
        return Difference(average, 0.0, None, None, None, pairs)
    from scipy.special import stdtr, stdtrit  # half a second, which other results do not need

    reach = float(stdtrit(pairs - 1, (1 + level) / 2)) * error
    p = float(2 * stdtr(pairs - 1, -abs(average) / error))
    return Difference(average, error, average - reach, average + reach, p, pairs)


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Return p values corrected for their number (Holm 1979).

    The smallest of m is multiplied by m, the next by m - 1, and so on. The results never decrease
    and are at most 1. If all hypotheses below a rate are rejected, the probability of any false
    rejection is at most that rate. This holds for any dependence between the tests.
    """
    corrected, largest = dict[Name, float](), 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return corrected


def _error(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values))
