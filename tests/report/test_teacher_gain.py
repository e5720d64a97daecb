"""Test the report's sentence on the gain over plain training, from hand-written records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchestrator.reporting.html._sweep_view import SweepView
from orchestrator.reporting.html._teacher_gain import teacher_gain
from tests.report.page_read import change
from tests.report.report_made import made

PLAIN, TAUGHT = "cross_entropy", "kd"


def gain_sentence(root: Path, trials: Sequence[tuple[str, int | None, float]], *pairs: str) -> str:
    """Return the sentence on a sweep of complete trials: method, seed and test accuracy of each."""
    sweep = made(
        root / "store", len(trials), "finished", "sweep", "mine", "search.scheduler=none", *pairs
    )
    for number, (method, seed, accuracy) in enumerate(trials):
        params: dict[str, Any] = {"method.name": method} | ({} if seed is None else {"seed": seed})
        metrics = {"validation/accuracy": accuracy, "test/last/accuracy": accuracy}
        change(
            sweep,
            number,
            params=params,
            state="complete",
            value=accuracy,
            epochs=9,
            history=[accuracy],
            metrics=metrics,
        )
    return teacher_gain(SweepView.of(sweep))


def test_two_single_trainings_are_compared_and_called_that(tmp_path: Path) -> None:
    line = gain_sentence(
        tmp_path,
        [(PLAIN, None, 0.94), (TAUGHT, None, 0.96), (TAUGHT, None, 0.95), (PLAIN, None, 0.93)],
    )
    assert line.startswith(
        "kd over cross_entropy, test accuracy with the last weights: +0.0200 (trial 1 with 0.9600, "
        "trial 0 with 0.9400)"
    )
    assert "Each is one training" in line


@pytest.mark.parametrize(
    "trials",
    [
        [(PLAIN, None, 0.9)] * 2,
        [(TAUGHT, None, 0.9)] * 2,
        [("tf_kd", None, 0.9), (PLAIN, None, 0.8)],
    ],
)
def test_no_sentence_without_both_trainings(
    tmp_path: Path, trials: Sequence[tuple[str, int | None, float]]
) -> None:
    assert gain_sentence(tmp_path, trials) == ""


@pytest.mark.parametrize(
    ("third", "ending"),
    [
        # differences 0.01, 0.02, 0.02: mean 1/60, standard error 1/300, t(2, 97.5 %) = 4.302653
        (0.98, "mean of 3 seeds: +0.0167, 95 % interval [+0.0023, +0.0310]: significant."),
        # differences 0.01, 0.02, -0.02: mean 1/300, standard error 0.0120185
        (0.94, "mean of 3 seeds: +0.0033, 95 % interval [-0.0484, +0.0550]: not significant."),
    ],
)
def test_over_seeds_the_interval_decides(tmp_path: Path, third: float, ending: str) -> None:
    plain = {1: 0.95, 2: 0.95, 3: 0.96}
    taught = {1: 0.96, 2: 0.97, 3: third}
    trials = [(PLAIN, seed, value) for seed, value in plain.items()] + [
        (TAUGHT, seed, value) for seed, value in taught.items()
    ]
    listed = [
        "search.configurations=[{method.name: kd}, {method.name: cross_entropy}]",
        "search.seeds=[1, 2, 3]",
        "search.trials=6",
    ]
    assert gain_sentence(tmp_path, trials, *listed).endswith(ending)
