"""Decide which methods are equivalent within a margin, corrected for the number of tests."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.reporting.statistics import LEVEL, Difference, Equivalence, equivalence, holm

Pair = tuple[str, str]  # a method and a reference
YES, NO, NOT_KNOWN = "yes", "no", "not known"


@dataclass(frozen=True)
class Within:
    """Verdict of whether a difference lies within the margin.

    Attributes:
        verdict: "yes", "no" or "not known".
        tests: The tests of this difference alone.
        corrected_within: `tests.p_within` after Holm's correction for all differences.
        corrected_outside: `tests.p_outside` after Holm's correction for all differences.
    """

    verdict: str
    tests: Equivalence
    corrected_within: float | None
    corrected_outside: float | None


def decide_equivalence(differences: Mapping[Pair, Difference], margin: float) -> dict[Pair, Within]:
    """Return for each difference whether it lies within ± `margin`.

    The tests for "yes" are one family, and those for "no" another. Without a variance there is no
    test, and the verdict is "not known".
    """
    tests = {pair: equivalence(found, margin) for pair, found in differences.items()}
    within = correct_pairs({pair: one.p_within for pair, one in tests.items()})
    outside = correct_pairs({pair: one.p_outside for pair, one in tests.items()})
    return {
        pair: Within(
            YES
            if within.get(pair, 1.0) < 1 - LEVEL
            else NO
            if outside.get(pair, 1.0) < 1 - LEVEL
            else NOT_KNOWN,
            one,
            within.get(pair),
            outside.get(pair),
        )
        for pair, one in tests.items()
    }


def correct_pairs(p_values: Mapping[Pair, float | None]) -> dict[Pair, float]:
    """Return the known p values after Holm's correction for their number.

    The difference of two references, which is tested in both directions, counts once.
    """
    known = {pair: p for pair, p in p_values.items() if p is not None}
    corrected = holm({frozenset(pair): p for pair, p in known.items()})
    return {pair: corrected[frozenset(pair)] for pair in known}
