"""Compute statistics of paired trials: differences, standard errors, Holm's correction.

A subclass of `Trial` defines the results of one trial.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """A variant with a seed; subclasses add the results."""

    variant: str
    seed: int
    seconds: float

    def plain(self) -> dict[str, Any]:
        """Return the trial as JSON values."""
        return asdict(self)

    @property
    def outcome(self) -> str:
        """Return the result in a few words, for the progress line."""
        raise NotImplementedError


Kept = TypeVar("Kept", bound=Trial)


@dataclass(frozen=True)
class Difference:
    """A mean over paired seeds, its standard error, and the two-sided paired t-test's p-value."""

    mean: float
    error: float
    p: float


class Table(Generic[Kept]):
    """The trials by variant and seed."""

    def __init__(self, trials: list[Kept]) -> None:
        self.rows: dict[str, dict[int, Kept]] = {}
        for trial in trials:
            self.rows.setdefault(trial.variant, {})[trial.seed] = trial

    def values(self, variant: str, of: Callable[[Kept], float]) -> Values:
        """Return a value of every seed of a variant."""
        return np.array([of(trial) for _, trial in sorted(self.rows[variant].items())])

    def difference(self, variant: str, other: str, of: Callable[[Kept], float]) -> Difference:
        """Return the difference of a value between two variants, over their common seeds."""
        mine, theirs = self.rows[variant], self.rows[other]
        each = np.array(
            [of(mine[seed]) - of(theirs[seed]) for seed in sorted(set(mine) & set(theirs))]
        )
        return Difference(float(each.mean()), error(each), p_value(each))

    def gains(
        self, rival: str, names: list[str], tested: set[str], of: Callable[[Kept], float]
    ) -> dict[str, str]:
        """Return the gains of variants over a rival as text, in points.

        Args:
            rival: Name of the rival.
            names: Names of the variants.
            tested: Variants that get a p-value, corrected for their number.
            of: The compared value, as a fraction of 1.
        """
        gains = {name: self.difference(name, rival, of) for name in names if name != rival}
        corrected = holm({name: gain.p for name, gain in gains.items() if name in tested})
        cells = {
            name: plus_minus(100 * gain.mean, 100 * gain.error, sign=True)
            for name, gain in gains.items()
        }
        cells |= {
            name: f"{cells[name]} (p = {p:.2g})"
            for name, p in corrected.items()
            if not math.isnan(p)
        }
        return {rival: "0", **cells}

    def cell(self, variant: str, of: Callable[[Kept], float], digits: int = 2) -> str:
        """Return the mean of a value over the seeds, and its standard error, as text."""
        values = self.values(variant, of)
        return plus_minus(float(values.mean()), error(values), digits)

    def counted(self) -> str:
        """Return the number of seeds as text."""
        seeds = sorted({len(row) for row in self.rows.values()})
        if len(seeds) == 1:
            return f"{seeds[0]} seed{'s' * (seeds[0] > 1)}"
        return f"between {seeds[0]} and {seeds[-1]} seeds (not complete)"


def error(values: Values) -> float:
    """Return the standard error of the mean; NaN for one value."""
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def p_value(differences: Values) -> float:
    """Return the p-value of a two-sided paired t-test.

    It is 1 if all differences are zero, and NaN for a single difference.
    """
    from scipy.stats import ttest_1samp  # type: ignore[import-untyped]

    if len(differences) < 2:
        return math.nan
    return 1.0 if not differences.any() else float(ttest_1samp(differences, 0.0).pvalue)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values corrected for their number (Holm 1979).

    The smallest is multiplied by m, the next by m - 1, and so on; values never fall and are at most
    1.
    """
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = math.nan if math.isnan(p_values[name]) else largest
    return corrected


def plus_minus(mean: float, deviation: float, digits: int = 2, sign: bool = False) -> str:
    """Return a mean and its error as text; a single seed has no error."""
    return f"{mean:{'+' * sign}.{digits}f}" + (
        "" if math.isnan(deviation) else f" ± {deviation:.{digits}f}"
    )


def lines(titles: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return "\n".join(
        "| " + " | ".join(row) + " |" for row in (titles, ["---"] * len(titles), *rows)
    )
