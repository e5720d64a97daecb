"""Tabulate statistics of paired trials: means and differences with standard errors.

A subclass of `Trial` defines the results of one trial.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.reporting.statistics import Difference, difference, holm

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
class TestedTrial(Trial):
    """Test metrics of the last epoch's student; subclasses add their own.

    Attributes:
        accuracy: Test accuracy.
        nll: Test negative log-likelihood.
        ece: Test expected calibration error.
    """

    accuracy: float
    nll: float
    ece: float

    @property
    def outcome(self) -> str:
        """Return the test accuracy as text."""
        return f"{self.accuracy:.4f}"


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
        mine, theirs = (
            {seed: of(trial) for seed, trial in self.rows[name].items()}
            for name in (variant, other)
        )
        found = difference(mine, theirs)
        assert found, f"{variant} and {other} have no seed in common"
        return found

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
        known = {name: gain.p for name, gain in gains.items() if name in tested}
        corrected = holm({name: p for name, p in known.items() if p is not None})
        cells = {
            name: plus_minus(
                100 * gain.mean, math.nan if gain.error is None else 100 * gain.error, sign=True
            )
            for name, gain in gains.items()
        }
        cells |= {name: f"{cells[name]} (p = {p:.2g})" for name, p in corrected.items()}
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
