"""Compute statistics of paired seeds: means, differences, equivalence tests, Holm's correction.

A pair is one seed. Two methods that were trained with it had the same initial weights, batches and
views, so that shared effects cancel in their difference. The results hold for differences that are
approximately normal; accuracies over seeds are.

Values of several studies, each with seeds of its own, are first averaged within each study. The
seeds of a study share the settings that its search chose, so that only the means of the studies are
independent.
"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
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
    differ. `pairs` counts the independent differences: seeds of one study, else studies.
    """

    mean: float
    error: float | None
    low: float | None
    high: float | None
    p: float | None
    pairs: int


@dataclass(frozen=True)
class Equivalence:
    """Position of a difference relative to a margin.

    `low` and `high` are the 90 % t interval. `p_within` is small if the true difference lies within
    the margin, and `p_outside` if it lies outside. The four are None without a variance.
    """

    margin: float
    low: float | None = None
    high: float | None = None
    p_within: float | None = None
    p_outside: float | None = None


def mean(values: Sequence[float]) -> Mean:
    """Return the mean of one or more values. Raise ValueError if there are none."""
    if not values:
        raise ValueError("a mean of no values")
    array = np.asarray(values, dtype=np.float64)
    return Mean(float(array.mean()), _error(array) if len(array) > 1 else None, len(array))


def average_studies(
    values: Mapping[int, float], studies: Sequence[Collection[int]] = ()
) -> list[float]:
    """Return the independent values: one for each seed of a single study, else one for each study.

    Args:
        values: Values by seed.
        studies: The seeds of each study. A study without a value is left out.
    """
    if len(studies) < 2:
        return [values[seed] for seed in sorted(values)]
    groups = [[values[seed] for seed in sorted(seeds) if seed in values] for seeds in studies]
    return [math.fsum(group) / len(group) for group in groups if group]


def difference(
    mine: Mapping[int, float],
    theirs: Mapping[int, float],
    level: float = LEVEL,
    studies: Sequence[Collection[int]] = (),
) -> Difference | None:
    """Return the paired difference `mine` - `theirs` over the seeds that both have.

    The interval is mean ± t(level, n - 1) error, for n seeds of one study or for the means of n
    studies. It covers the true difference in `level` of all repetitions.

    Args:
        mine: Values by seed.
        theirs: Values by seed.
        level: The confidence level of the interval.
        studies: The seeds of each study; empty for one study.

    Returns:
        The difference, or None if no seed is shared.
    """
    paired = {seed: mine[seed] - theirs[seed] for seed in sorted(set(mine) & set(theirs))}
    if not paired:
        return None
    each = np.array(average_studies(paired, studies), dtype=np.float64)
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


def equivalence(found: Difference, margin: float, level: float = LEVEL) -> Equivalence:
    """Return the tests of whether a difference lies within or outside ± `margin`.

    `p_within` is that of two one-sided t-tests (Schuirmann 1987). It is below 1 - `level` exactly
    if the interval of level 2 `level` - 1 lies within the margin. `p_outside` is below 1 - `level`
    exactly if the interval of `level` lies outside.

    Args:
        found: The difference.
        margin: The largest difference that does not matter, above 0.
        level: The confidence level of both tests.
    """
    if not found.error:
        return Equivalence(margin)
    from scipy.special import stdtr, stdtrit

    freedom, distance = found.pairs - 1, (margin - abs(found.mean)) / found.error
    reach = float(stdtrit(freedom, level)) * found.error
    return Equivalence(
        margin,
        found.mean - reach,
        found.mean + reach,
        float(stdtr(freedom, -distance)),
        min(1.0, float(2 * stdtr(freedom, distance))),
    )


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
