"""Test the statistics of several studies against a nested analysis of variance."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from test_comparison_page import made

from orchestrator.config.loader import load
from orchestrator.reporting.statistics import Difference, average_studies, difference, mean
from orchestrator.store.store import Store
from orchestrator.sweep.comparison import design, page
from orchestrator.sweep.comparison.record import FILE, LARGEST_STUDIES, Comparison
from orchestrator.sweep.comparison.result import differences
from tests.refusal import refused

FEW = ("cross_entropy", "kd")


def keyed(values: NDArray[np.float64]) -> tuple[dict[int, float], list[tuple[int, ...]]]:
    """Return values (N, n) by seed, and the seeds of each study."""
    numbers = np.arange(values.size).reshape(values.shape)
    return (
        {int(seed): float(values.flat[seed]) for seed in numbers.flat},
        [tuple(map(int, row)) for row in numbers],
    )


def over_studies(mine: NDArray[np.float64], theirs: NDArray[np.float64]) -> Difference:
    (one, studies), (other, _) = keyed(mine), keyed(theirs)
    found = difference(one, other, studies=studies)
    assert found is not None
    return found


@pytest.mark.parametrize(("studies", "seeds"), [(2, 3), (3, 10), (7, 2)])
def test_balanced_studies_match_the_nested_model(studies: int, seeds: int) -> None:
    """The test of the mean in a one-way random model: its error is that between studies."""
    draw = np.random.default_rng(studies)
    shared = draw.normal(0.9, 0.02, (studies, seeds))
    each = draw.normal(0.01, 0.01, (studies, 1)) + draw.normal(0, 0.005, (studies, seeds))
    found = over_studies(shared + each, shared)
    square_between = seeds * sum((row.mean() - each.mean()) ** 2 for row in each) / (studies - 1)
    error = math.sqrt(square_between / each.size)
    reach = stats.t.ppf(0.975, studies - 1) * error
    assert found.mean == pytest.approx(each.mean()) and found.error == pytest.approx(error)
    assert (found.low, found.high) == pytest.approx((each.mean() - reach, each.mean() + reach))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(each.mean()) / error, studies - 1))
    assert found.pairs == studies


def test_one_study_equals_the_seeds_exactly() -> None:
    draw = np.random.default_rng(1)
    (mine, studies), (theirs, _) = (keyed(draw.normal(0.9, 0.02, (1, 10))) for _ in range(2))
    assert difference(mine, theirs, studies=studies) == difference(mine, theirs)
    assert mean(average_studies(mine, studies)) == mean(list(mine.values()))
    assert differences({"kd": mine, "cross_entropy": theirs}, studies) == differences(
        {"kd": mine, "cross_entropy": theirs}
    )


def test_studies_have_equal_weights_whatever_is_missing() -> None:
    values = {0: 1.0, 1: 2.0, 2: 6.0, 5: 4.0}
    studies = [(0, 1), (2, 3), (4,), (5, 6)]
    assert average_studies(values, studies) == [1.5, 6.0, 4.0]
    found = difference(values, {0: 0.0, 2: 1.0, 3: 9.0}, studies=studies)
    assert found is not None and (found.mean, found.pairs) == (3.0, 2)


def test_one_usable_study_of_several_has_no_interval() -> None:
    found = difference({0: 0.5, 1: 0.75}, {0: 0.25, 1: 0.25}, studies=[(0, 1), (2, 3)])
    assert found == Difference(0.375, None, None, None, None, 1)


@pytest.mark.slow
@pytest.mark.parametrize("studies", [2, 3, 8])
def test_intervals_over_studies_have_their_nominal_coverage(studies: int) -> None:
    """The seeds of all studies together are not independent, and their interval is too short."""
    draw, repetitions, true, seeds = np.random.default_rng(6), 4000, 0.013, 4
    covered: dict[str, int] = {"studies": 0, "seeds": 0}
    tests: dict[str, Callable[..., Difference]] = {
        "studies": over_studies,
        "seeds": lambda mine, theirs: over_studies(mine.reshape(-1, 1), theirs.reshape(-1, 1)),
    }
    for _ in range(repetitions):
        theirs = draw.normal(0.9, 0.02, (studies, seeds))
        search = draw.normal(true, 0.01, (studies, 1))
        mine = theirs + search + draw.normal(0, 0.01, (studies, seeds))
        for name, test in tests.items():
            found = test(mine, theirs)
            assert found.low is not None and found.high is not None
            covered[name] += found.low <= true <= found.high
    tolerance = 4 * math.sqrt(0.95 * 0.05 / repetitions)
    assert abs(covered["studies"] / repetitions - 0.95) < tolerance
    assert covered["seeds"] / repetitions < 0.95 - tolerance


def test_seeds_and_names_of_studies_are_disjoint(tmp_path: Path) -> None:
    common = design.base(load(None, ["seed=5"]), FEW, 3, 3)
    comparison = Comparison.create(Store.open(tmp_path), "mine", common, 3, 3)
    runs = comparison.runs
    assert [run.configuration.seed for run in runs] == [5, 9, 13]
    assert [run.seeds for run in runs] == [(6, 7, 8), (10, 11, 12), (14, 15, 16)]
    assert len(set(comparison.sweeps)) == 9 and comparison.sweeps[:4] == (
        "mine-cross_entropy",
        "mine-kd",
        "mine-seeds",
        "mine-study2-cross_entropy",
    )
    for run in runs:
        assert design.seeds_of(run.configuration, 3) == run.seeds


@pytest.mark.parametrize(
    ("pairs", "studies", "field", "value", "allowed"),
    [
        ([], 0, "--studies", 0, (1, LARGEST_STUDIES)),
        ([], LARGEST_STUDIES + 1, "--studies", LARGEST_STUDIES + 1, (1, LARGEST_STUDIES)),
        (["seed=2147483620"], 3, "seed", 2147483620, (0, 2**31 - 1 - 32)),
    ],
)
def test_studies_out_of_range_are_refused(
    pairs: list[str], studies: int, field: str, value: object, allowed: object
) -> None:
    with refused(field, value, allowed):
        design.base(load(None, pairs), FEW, 10, studies)


def test_record_of_an_older_version_is_one_study(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    common = design.base(load(None, []), FEW, 2)
    file = Comparison.create(store, "mine", common, 2).folder / FILE
    values = json.loads(file.read_text())
    for key in ("checksum", "studies", "margin", "inference"):
        del values[key]
    chosen = {"kd": {"trial": 1, "value": 0.5, "settings": {"alpha": 0.5}}}
    file.write_text(json.dumps(values | {"format": 4, "chosen": chosen}))
    read = Comparison.open(store, "mine")
    assert (read.studies, read.margin, read.inference) == (1, 0.3, {})
    assert read.runs[0].settings == {"kd": {"alpha": 0.5}}
    file.write_text(json.dumps(values | {"format": 4, "chosen": {"study2-kd": chosen["kd"]}}))
    with refused(str(file), "chosen.study2-kd"):
        Comparison.open(store, "mine")


def test_page_describes_the_studies() -> None:
    draw = np.random.default_rng(3)
    values = {name: keyed(draw.normal(0.9, 0.01, (3, 2)))[0] for name in FEW}
    found = replace(made(values), studies=3)
    lines = "\n".join([*page.conditions(found), *page.list_conclusions(found)])
    assert "3 studies, each with other seeds" in lines and "2 degrees of freedom" in lines
    assert "no significant difference to cross_entropy with 3 studies: kd" in lines
