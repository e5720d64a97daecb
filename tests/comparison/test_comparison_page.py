"""Test the claims and the text of a table on generated values with known differences."""

from dataclasses import replace

import pytest

from orchestrator.reporting.statistics import difference, holm, mean
from orchestrator.sweep.comparison import page
from orchestrator.sweep.comparison._published_table import Published
from orchestrator.sweep.comparison.result import Against, Cost, Result, Row, differences

PLAIN = {1: 0.80, 2: 0.83, 3: 0.79, 4: 0.82, 5: 0.81}
VALUES = {
    "cross_entropy": PLAIN,
    "kd": {seed: value + 0.04 + 0.001 * (seed % 2) for seed, value in PLAIN.items()},
    "ttm": {seed: value - 0.05 - 0.001 * (seed % 3) for seed, value in PLAIN.items()},
    "wttm": {seed: value + (0.03 if seed % 2 else -0.03) for seed, value in PLAIN.items()},
}


def made(values: dict[str, dict[int, float]], published: Published | None = None) -> Result:
    against, nothing = differences(values), Cost(0, None, None)
    rows = [
        Row(
            name,
            {},
            "",
            {"accuracy": mean(list(own.values()))},
            against[name],
            None,
            nothing,
            nothing,
        )
        for name, own in values.items()
    ]
    seeds = tuple(next(iter(values.values())))
    return Result(
        "mine", "digits", {"test": 100}, "mlp", 0.9, "mlp", 4, seeds, 2, tuple(rows), published
    )


def test_all_differences_of_a_table_are_one_family() -> None:
    """Five differences: three to cross entropy, two more to KD; a reverse is the same one."""
    against = differences(VALUES)
    pairs = [
        ("kd", "cross_entropy"),
        ("ttm", "cross_entropy"),
        ("wttm", "cross_entropy"),
        ("ttm", "kd"),
        ("wttm", "kd"),
    ]
    alone = {
        pair: paired.p for pair in pairs if (paired := difference(VALUES[pair[0]], VALUES[pair[1]]))
    }
    corrected = holm({pair: p for pair, p in alone.items() if p is not None})
    assert len(corrected) == 5
    assert {pair: against[pair[0]][pair[1]].corrected for pair in pairs} == pytest.approx(corrected)
    there, back = against["kd"]["cross_entropy"], against["cross_entropy"]["kd"]
    assert back.corrected == there.corrected and back.difference.mean == pytest.approx(
        -there.difference.mean
    )


def test_conclusions_list_significant_and_other_differences() -> None:
    conclusions = page.list_conclusions(made(VALUES))
    assert conclusions == [
        "better than cross_entropy on the test part, with a corrected p below 0.05: kd",
        "worse than cross_entropy on the test part, with a corrected p below 0.05: ttm",
        "no significant difference to cross_entropy with 5 seeds: wttm",
        "worse than kd on the test part, with a corrected p below 0.05: cross_entropy, ttm",
        "no significant difference to kd with 5 seeds: wttm",
    ]


def test_difference_without_variance_is_not_significant() -> None:
    shifted = {"cross_entropy": PLAIN, "kd": {seed: value + 0.25 for seed, value in PLAIN.items()}}
    found = made(shifted)
    assert page.list_conclusions(found) == [
        "no significant difference to cross_entropy with 5 seeds: kd",
        "no significant difference to kd with 5 seeds: cross_entropy",
    ]
    assert "| +25.00 in every seed |" in page.markdown(found)


def test_a_reference_that_is_not_compared_has_no_column() -> None:
    found = made({name: VALUES[name] for name in ("ttm", "wttm", "kd")})
    titles, rows = page.quality(found)
    assert (
        titles[:3] == ["method", "accuracy, last epoch, %", "over kd, points"]
        and "over cross_entropy, points" not in titles
    )
    assert [len(row) for row in rows] == [len(titles)] * 3 and rows[2][2] == "0"
    one: Against = found.rows[0].against["kd"]
    assert one.difference.low is not None and one.difference.high is not None
    assert f"[{100 * one.difference.low:+.2f}, {100 * one.difference.high:+.2f}] p = " in rows[0][2]


def test_searches_that_ended_with_fewer_trials_are_named() -> None:
    found = made({name: VALUES[name] for name in ("cross_entropy", "kd", "ttm")})
    rows = tuple(
        replace(row, searched=count) for row, count in zip(found.rows, (12, 5, 11), strict=True)
    )
    lines = page.conditions(replace(found, rows=rows, trials=12))
    assert "searches that ended with fewer trials: kd with 5, ttm with 11" in lines
    whole = page.conditions(
        replace(found, rows=tuple(replace(row, searched=12) for row in rows), trials=12)
    )
    assert not any("fewer trials" in line for line in whole)


def test_unfinished_comparison_has_no_conclusions() -> None:
    assert page.list_conclusions(replace(made(VALUES), unfinished="3 of 20 trainings")) == [
        "unfinished: 3 of 20 trainings; no conclusions before all have ended"
    ]
