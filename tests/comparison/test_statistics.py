"""Test the statistics of a comparison against scipy, and their claims where the truth is known."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from orchestrator.reporting.statistics import Difference, Mean, difference, holm, mean

METHODS, SEEDS = 6, 10


def by_seed(values: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> dict[int, float]:
    return {seed: float(value) for seed, value in enumerate(values)}


def paired(
    mine: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    theirs: "np.ndarray[tuple[int], np.dtype[np.float64]]",
) -> Difference:
    found = difference(by_seed(mine), by_seed(theirs))
    assert found is not None
    return found


@pytest.mark.parametrize(("seeds", "shift"), [(2, 0.3), (3, 0.0), (10, 0.02), (57, -0.5)])
def test_difference_matches_scipy(seeds: int, shift: float) -> None:
    draw = np.random.default_rng(seeds)
    theirs = draw.normal(0.9, 0.02, seeds)
    mine = theirs + draw.normal(shift, 0.05, seeds)
    found, test = paired(mine, theirs), stats.ttest_rel(mine, theirs)
    low, high = stats.t.interval(
        0.95, seeds - 1, loc=np.mean(mine - theirs), scale=stats.sem(mine - theirs)
    )
    assert found.p == pytest.approx(test.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert (
        found.error == pytest.approx(stats.sem(mine - theirs), rel=1e-12) and found.pairs == seeds
    )


def test_mean_and_standard_error_match_scipy() -> None:
    values = np.random.default_rng(1).normal(size=12)
    found = mean(values.tolist())
    assert (found.value, found.error) == pytest.approx(
        (values.mean(), stats.sem(values))
    ) and found.count == 12


def test_intervals_have_their_nominal_coverage() -> None:
    """95 % of 4,000 repetitions, within four standard deviations, for any common part."""
    draw, repetitions, true, covered = np.random.default_rng(2), 4000, 0.013, 0
    for _ in range(repetitions):
        common = draw.normal(0, 0.1, SEEDS)
        found = paired(
            common + draw.normal(true, 0.02, SEEDS), common + draw.normal(0, 0.01, SEEDS)
        )
        assert found.low is not None and found.high is not None
        covered += found.low <= true <= found.high
    assert abs(covered / repetitions - 0.95) < 4 * math.sqrt(0.95 * 0.05 / repetitions)


def family(
    values: "np.ndarray[tuple[int, int], np.dtype[np.float64]]",
) -> dict[tuple[int, int], float]:
    """Return the p of every method (M, S) against the first and the second, as in a table."""
    pairs = [(one, other) for other, one in product((0, 1), range(METHODS)) if one > other]
    return {pair: paired(values[pair[0]], values[pair[1]]).p or 0.0 for pair in pairs}


def test_false_claims_are_rare_without_differences() -> None:
    """The share of tables with a false claim; it is several times the rate uncorrected."""
    draw, repetitions, rate = np.random.default_rng(3), 1000, 0.05
    false = uncorrected = 0
    for _ in range(repetitions):
        values = draw.normal(0, 0.1, SEEDS) + draw.normal(0, 0.02, (METHODS, SEEDS))
        found = family(values)
        false += min(holm(found).values()) < rate
        uncorrected += min(found.values()) < rate
    assert false / repetitions <= rate + 3 * math.sqrt(rate * (1 - rate) / repetitions)
    assert uncorrected / repetitions > 3 * rate


def test_existing_difference_is_found_with_the_theoretical_power() -> None:
    """For one test without a correction, the noncentral t distribution gives the power."""
    draw, repetitions, true, noise = np.random.default_rng(4), 3000, 0.02, 0.02
    found = sum(
        (paired(draw.normal(true, noise, SEEDS), np.zeros(SEEDS)).p or 1.0) < 0.05
        for _ in range(repetitions)
    )
    bound, shift = stats.t.ppf(0.975, SEEDS - 1), true / (noise / math.sqrt(SEEDS))
    power = stats.nct.sf(bound, SEEDS - 1, shift) + stats.nct.cdf(-bound, SEEDS - 1, shift)
    assert 0.5 < power < 0.95
    assert abs(found / repetitions - power) < 4 * math.sqrt(power * (1 - power) / repetitions)


def test_a_clear_difference_is_claimed_after_the_correction_too() -> None:
    draw = np.random.default_rng(5)
    values = draw.normal(0, 0.1, SEEDS) + draw.normal(0, 0.01, (METHODS, SEEDS))
    values[3] += 0.1
    corrected = holm(family(values))
    assert {pair for pair, p in corrected.items() if p < 0.01} == {(3, 0), (3, 1)}


def test_holm_matches_the_paper() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": 0.2}) == {"a": 0.2}
    assert not holm({})


def test_one_seed_has_no_interval() -> None:
    assert difference({3: 0.75}, {3: 0.5, 4: 0.1}) == Difference(0.25, None, None, None, None, 1)
    assert mean([0.9]) == Mean(0.9, None, 1)
    assert difference({1: 0.9}, {2: 0.9}) is None
    with pytest.raises(ValueError, match="no values"):
        mean([])


def test_only_common_seeds_are_paired() -> None:
    whole = difference({0: 0.5, 1: 0.75, 2: 0.25}, {0: 0.25, 2: 0.5, 7: 0.0})
    assert whole is not None and (whole.mean, whole.pairs) == (0.0, 2)


def test_no_p_value_without_variance() -> None:
    """Equal differences, up to rounding, are no evidence of the spread; zeros are no difference."""
    mine = {0: 0.1 + 0.2, 1: 0.4, 2: 0.7}
    theirs = {0: 0.2, 1: 0.3, 2: 0.6}
    shifted = difference(mine, theirs)
    assert shifted is not None and shifted.mean == pytest.approx(0.1)
    assert (shifted.error, shifted.low, shifted.high, shifted.p, shifted.pairs) == (
        0.0,
        None,
        None,
        None,
        3,
    )
    assert difference(mine, mine) == Difference(0.0, 0.0, 0.0, 0.0, 1.0, 3)
