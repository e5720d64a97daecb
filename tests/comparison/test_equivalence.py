"""Test the equivalence tests against scipy, the definition by intervals, and the verdicts."""

import math

import numpy as np
import pytest
from scipy import stats
from test_comparison_page import made

from orchestrator.reporting.statistics import Difference, Equivalence, difference, equivalence, holm
from orchestrator.sweep.comparison import design, page
from orchestrator.sweep.comparison.result import Against, differences
from tests.refusal import refused

MARGIN = 0.003


def found_difference(values: list[float]) -> Difference:
    found = difference(dict(enumerate(values)), dict.fromkeys(range(len(values)), 0.0))
    assert found is not None
    return found


@pytest.mark.parametrize(("seeds", "shift"), [(2, 0.0), (5, 0.001), (10, -0.002), (10, 0.02)])
def test_equivalence_matches_scipy(seeds: int, shift: float) -> None:
    values = np.random.default_rng(seeds).normal(shift, 0.002, seeds)
    found = equivalence(found_difference(values.tolist()), MARGIN)
    above = stats.ttest_1samp(values, -MARGIN, alternative="greater").pvalue
    below = stats.ttest_1samp(values, MARGIN, alternative="less").pvalue
    assert found.p_within == pytest.approx(max(above, below), rel=1e-9)
    low, high = stats.t.interval(0.9, seeds - 1, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    outside = [
        stats.ttest_1samp(values, edge, alternative=side).pvalue
        for edge, side in ((MARGIN, "greater"), (-MARGIN, "less"))
    ]
    assert found.p_outside == pytest.approx(min(1.0, 2 * min(outside)), rel=1e-9)


def test_p_values_agree_with_the_intervals() -> None:
    """Both definitions of a verdict: the position of an interval, and a p below 0.05."""
    draw, verdicts = np.random.default_rng(1), set()
    for _ in range(300):
        seeds = int(draw.integers(2, 12))
        values = draw.normal(draw.normal(0, 0.004), draw.uniform(0.0003, 0.004), seeds)
        alone = found_difference(values.tolist())
        found = equivalence(alone, MARGIN)
        assert found.low is not None and found.high is not None
        assert alone.low is not None and alone.high is not None
        assert found.p_within is not None and found.p_outside is not None
        within = found.low > -MARGIN and found.high < MARGIN
        outside = alone.low > MARGIN or alone.high < -MARGIN
        assert (found.p_within < 0.05, found.p_outside < 0.05) == (within, outside)
        verdicts.add((within, outside))
    assert verdicts == {(True, False), (False, True), (False, False)}


def test_interval_has_the_quantile_of_the_tables() -> None:
    """Differences 1, 2, 3, 4 and 5 have the mean 3 and the error sqrt(2.5 / 5); t(0.95, 4)."""
    found = equivalence(found_difference([1.0, 2.0, 3.0, 4.0, 5.0]), 10.0)
    reach = 2.132 * math.sqrt(0.5)
    assert (found.low, found.high) == pytest.approx((3 - reach, 3 + reach), abs=5e-4)


def test_no_test_without_a_variance() -> None:
    nothing = Equivalence(MARGIN)
    assert equivalence(found_difference([0.001]), MARGIN) == nothing
    assert equivalence(found_difference([0.001, 0.001, 0.001]), MARGIN) == nothing
    assert equivalence(found_difference([0.0, 0.0]), MARGIN) == nothing


PLAIN = {seed: 0.8 + 0.01 * seed for seed in range(1, 7)}
NOISE = dict(zip(PLAIN, (0.0004, -0.0004, 0.0002, -0.0002, 0.0001, -0.0001), strict=True))


def shifted(by: float, noise: float = 1.0) -> dict[int, float]:
    return {seed: value + by + noise * NOISE[seed] for seed, value in PLAIN.items()}


def verdict(against: dict[str, dict[str, Against]], method: str, reference: str) -> str:
    within = against[method][reference].within
    assert within is not None
    return within.verdict


def test_verdicts_are_yes_no_and_not_known() -> None:
    against = differences(
        {
            "cross_entropy": PLAIN,
            "ttm": shifted(0.0005),
            "akd": shifted(0.02),
            "wttm": shifted(0.0, noise=30.0),
        }
    )
    assert verdict(against, "ttm", "cross_entropy") == "yes"
    assert verdict(against, "akd", "cross_entropy") == "no"
    assert verdict(against, "wttm", "cross_entropy") == "not known"
    wide = differences({"cross_entropy": PLAIN, "akd": shifted(0.02)}, margin=5.0)
    assert verdict(wide, "akd", "cross_entropy") == "yes"


def test_both_families_of_a_table_are_corrected() -> None:
    values = {"cross_entropy": PLAIN, "kd": shifted(0.001), "ttm": shifted(0.0015, 3.0)}
    against = differences(values)
    pairs = [("kd", "cross_entropy"), ("ttm", "cross_entropy"), ("ttm", "kd")]
    alone = {}
    for one, other in pairs:
        paired = difference(values[one], values[other])
        assert paired is not None
        alone[one, other] = equivalence(paired, MARGIN)
    for name in ("within", "outside"):
        corrected = holm({pair: getattr(each, f"p_{name}") for pair, each in alone.items()})
        shown = {(one, other): against[one][other].within for one, other in pairs}
        assert {
            pair: getattr(each, f"corrected_{name}") for pair, each in shown.items()
        } == pytest.approx(corrected)
    there, back = against["kd"]["cross_entropy"].within, against["cross_entropy"]["kd"].within
    assert there is not None and back is not None
    assert (there.verdict, there.corrected_within) == (back.verdict, back.corrected_within)


def test_missing_runs_leave_fewer_pairs() -> None:
    partial = {seed: value for seed, value in shifted(0.0005).items() if seed < 3}
    two = differences({"cross_entropy": PLAIN, "kd": partial})
    assert two["kd"]["cross_entropy"].difference.pairs == 2
    one = differences({"cross_entropy": PLAIN, "kd": {1: 0.81}})
    assert verdict(one, "kd", "cross_entropy") == "not known"
    assert differences({"cross_entropy": PLAIN, "kd": {}})["kd"] == {}


def test_verdicts_are_shown() -> None:
    found = made({"cross_entropy": PLAIN, "kd": shifted(0.0005), "akd": shifted(0.02)})
    titles, rows = page.quality(found)
    column = titles.index("within 0.3 points of cross_entropy")
    assert [row[column].split(",")[0] for row in rows] == ["–", "yes", "no"]
    assert (
        "within 0.3 points of cross_entropy on the test part, with a corrected p below 0.05: kd"
        in page.list_conclusions(found)
    )
    plain = found.plain()["rows"][1]["against"]["cross_entropy"]["within"]
    assert plain["verdict"] == "yes" and plain["tests"]["margin"] == pytest.approx(MARGIN)
    logged = page.metrics(found)
    assert logged["comparison/kd/within_cross_entropy_p"] == plain["corrected_within"]


@pytest.mark.parametrize("margin", [0.0, -0.3, 51.0, math.inf])
def test_margin_out_of_range_is_refused(margin: float) -> None:
    with refused("--margin", margin, (0, design.LARGEST_MARGIN)):
        design.require_margin(margin)
