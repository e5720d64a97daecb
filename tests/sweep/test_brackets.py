"""Test Hyperband without Ray's actors: stops at each milestone, and no deadlock."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import plan
from orchestrator.store.records import Sweep
from orchestrator.sweep._hyperband import HyperbandBrackets
from tests.sweep.simulated import SimulatedTune, begin, resumed

HYPERBAND = ("search.scheduler=hyperband", "search.trials=17", "training.epochs=9")


def by_number(number: int, epoch: int) -> float:
    """Return better values for later trials."""
    return 0.01 * number + 0.001 * epoch


def play(
    folder: Path, *pairs: str, score: Any = by_number, order: int = 0, concurrency: int = 2
) -> Sweep:
    sweep, searcher = begin(folder, *HYPERBAND, *pairs)
    tune = SimulatedTune(
        searcher, HyperbandBrackets(searcher, lambda: concurrency), score, concurrency, order
    ).run()
    assert tune.most_running == concurrency
    return sweep


@pytest.mark.parametrize("order", range(3))
def test_best_trials_of_each_bracket_continue(order: int, tmp_path: Path) -> None:
    """9 epochs, factor 3: three are never compared, five after 3 epochs, nine after 1 and 3."""
    sweep = play(tmp_path, order=order)
    epochs = [trial.epochs for trial in sweep.trials.values()]
    assert epochs == [9, 9, 9] + [3, 3, 3, 9, 9] + [1] * 6 + [3, 3, 9]
    assert [number for number, trial in sweep.trials.items() if trial.state == "complete"] == [
        0,
        1,
        2,
        6,
        7,
        16,
    ]
    assert all(len(trial.history) == trial.epochs for trial in sweep.trials.values())
    assert plan.count_planned_epochs(sweep.configuration.search, 9) == sum(epochs)


def test_last_milestone_before_the_last_epoch_does_not_end_a_trial(tmp_path: Path) -> None:
    """With 10 epochs the third bracket's milestones are 1, 3, 9; only epoch 10 tests."""
    sweep = play(tmp_path, "training.epochs=10")
    assert sweep.trials[16].state == "complete" and sweep.trials[16].epochs == 10


@pytest.mark.parametrize("number", [0, 4, 7, 15, 16])
@pytest.mark.parametrize("epoch", [1, 2, 3, 5])
def test_failed_trial_does_not_block_the_others(number: int, epoch: int, tmp_path: Path) -> None:
    def failing(each: int, at: int) -> float | None:
        return None if each == number and at == epoch else by_number(each, at)

    sweep = play(tmp_path, score=failing, order=(number + epoch) % 2)
    failed = sweep.trials[number]
    assert failed.state == "failed" or (failed.state == "stopped_early" and failed.epochs < epoch)
    assert all(trial.ended for trial in sweep.trials.values())


@pytest.mark.parametrize("num_reports", [3, 20, 40, 60])
def test_resumed_search_ends_with_trials_past_the_next_milestones(
    num_reports: int, tmp_path: Path
) -> None:
    sweep, searcher = begin(tmp_path, *HYPERBAND)
    SimulatedTune(searcher, HyperbandBrackets(searcher, lambda: 3), by_number, 3).run(num_reports)
    found, again = resumed(sweep)
    SimulatedTune(again, HyperbandBrackets(again, lambda: 2), by_number, 2).run()
    assert all(trial.ended for trial in found.trials.values())
    assert all(len(trial.history) == trial.epochs for trial in found.trials.values())


def test_trials_all_past_the_next_milestones_are_compared_at_once(tmp_path: Path) -> None:
    sweep, searcher = begin(tmp_path, *HYPERBAND)
    for number in range(12):
        searcher.suggest(str(number))
        for epoch in range(1, 6):
            searcher.on_trial_result(str(number), result_of(number, epoch))
    found, again = resumed(sweep)
    SimulatedTune(again, HyperbandBrackets(again, lambda: 2), by_number, 2).run()
    states = [trial.state for trial in found.trials.values()]
    assert states[:3] == ["complete"] * 3 and states[3:8].count("complete") == 2
    assert [found.trials[number].state for number in (8, 9, 10)] == [
        "stopped_early"
    ] * 3 and states[11] == "complete"


def result_of(number: int, epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "metrics": json.dumps({"validation/accuracy": by_number(number, epoch)}),
    }


@pytest.mark.parametrize(
    ("epochs", "factor"),
    [
        *((epochs, 3) for epochs in (1, 2, 3, 5, 9, 10, 12, 27, 30, 81, 100, 200)),
        *((epochs, factor) for epochs in (1, 2, 10, 64, 200) for factor in (2, 4)),
    ],
)
def test_plan_lists_the_brackets_that_ray_builds(epochs: int, factor: int, tmp_path: Path) -> None:
    sweep, searcher = begin(
        tmp_path,
        f"training.epochs={epochs}",
        f"search.reduction_factor={factor}",
        "search.scheduler=hyperband",
    )
    scheduler = HyperbandBrackets(searcher, lambda: 2)
    for trials, milestones in plan.hyperband_brackets(sweep.configuration.search, epochs):
        bracket = scheduler._create_bracket(len(milestones))
        assert bracket._n0 == trials
        found = []
        while bracket._halves:
            found.append(bracket._cumul_r)
            bracket.successive_halving("", 1.0)
        assert found == milestones


@pytest.mark.parametrize(("trials", "reduction"), [(1, 3), (7, 2), (17, 2), (17, 3), (40, 3)])
def test_plan_shows_the_total_epochs_of_all_trials(
    trials: int, reduction: int, tmp_path: Path
) -> None:
    given = (
        f"search.trials={trials}",
        f"search.reduction_factor={reduction}",
        "training.epochs=10",
    )
    sweep, searcher = begin(tmp_path, *HYPERBAND, *given)
    SimulatedTune(searcher, HyperbandBrackets(searcher, lambda: 3), by_number, 3).run()
    assert sum(trial.epochs for trial in sweep.trials.values()) == plan.count_planned_epochs(
        sweep.configuration.search, 10
    )
