"""Test PBT without Ray's actors: copies of weights for any order of reports, failures, deaths."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from orchestrator.cli import sweep as sweep_command
from orchestrator.core.errors import ConfigurationError
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep import _snapshots as snapshots
from orchestrator.sweep._pbt import PbtScheduler, explore
from tests.sweep.simulated import SimulatedTune, begin, resumed
from tests.sweep_runs import Watch

BOUNDS = {
    "temperature": FloatDistribution(1.0, 10.0, log=True),
    "alpha": FloatDistribution(0.1, 0.9),
    "coarse": FloatDistribution(0.0, 1.0, step=0.25),
    "depth": IntDistribution(1, 4),
    "method.name": CategoricalDistribution(("kd", "ttm")),
}
SETTINGS: dict[str, Any] = {"temperature": 4.0, "alpha": 0.5, "depth": 2, "method.name": "ttm"}
PBT = ("search.scheduler=pbt", "training.epochs=12", "search.perturb_epochs=4")


def better_later(number: int, epoch: int) -> float:
    """Return values with trial 2 as the best and trial 1 as the worst, at every epoch."""
    return {0: 0.4, 1: 0.1, 2: 0.6}.get(number, 0.3 + 0.01 * number) + 0.01 * epoch


@pytest.mark.parametrize("seed", range(20))
def test_continuous_settings_are_multiplied_and_the_others_inherited(seed: int) -> None:
    varied = explore(SETTINGS, BOUNDS, 0.0, str(seed))
    assert varied["temperature"] in (pytest.approx(3.2), pytest.approx(4.8))
    assert varied["alpha"] in (pytest.approx(0.4), pytest.approx(0.6))
    assert varied["depth"] == 2 and varied["method.name"] == "ttm"
    assert SETTINGS["temperature"] == 4.0, "the donor keeps its own"


@pytest.mark.parametrize("resample", [0.0, 0.5, 1.0])
def test_no_setting_leaves_its_bounds(resample: float) -> None:
    for seed in range(200):
        varied = explore(
            {"temperature": 9.9, "alpha": 0.1, "coarse": 1.0}, BOUNDS, resample, str(seed)
        )
        assert 1.0 <= varied["temperature"] <= 10.0 and 0.1 <= varied["alpha"] <= 0.9
        assert varied["coarse"] in (0.0, 0.25, 0.5, 0.75, 1.0)


def test_variation_depends_on_the_seed() -> None:
    made = [explore(SETTINGS, BOUNDS, 0.5, seed) for seed in ("1 2 3", "1 2 3", "1 2 4")]
    assert made[0] == made[1] != made[2]


def test_redrawn_values_follow_the_distribution() -> None:
    drawn = [
        explore({"temperature": 4.0}, BOUNDS, 1.0, str(seed))["temperature"] for seed in range(400)
    ]
    assert math.exp(sum(map(math.log, drawn)) / len(drawn)) == pytest.approx(
        math.sqrt(10.0), rel=0.1
    )


def test_setting_without_bounds_is_inherited() -> None:
    assert explore({"given": 0.3}, BOUNDS, 0.0, "1") == {"given": 0.3}


def play(
    folder: Path, *pairs: str, score: Any = better_later, concurrency: int = 2, order: int = 0
) -> tuple[Sweep, SimulatedTune]:
    sweep, searcher = begin(folder, *PBT, "search.trials=8", *pairs)
    tune = SimulatedTune(
        searcher, PbtScheduler(searcher, lambda: concurrency), score, concurrency, order
    ).run()
    return sweep, tune


def test_more_trials_than_groups_complete_and_the_worst_copy_weights(tmp_path: Path) -> None:
    sweep, tune = play(tmp_path)
    assert {trial.state for trial in sweep.trials.values()} == {
        "complete"
    } and tune.most_running == 2
    assert all(len(trial.history) == 12 for trial in sweep.trials.values()), (
        "no epoch is missing and none is reported twice"
    )
    changes = sweep.trials[1].changes
    assert [change["epoch"] for change in changes] == [4, 8], (
        "not after the last epoch, when there is nothing left to train"
    )
    assert all(change["source"] in (2, 0, 7) for change in changes) and not sweep.trials[2].changes
    assert tune.trials[1].weights[-1] == 1 and tune.trials[1].weights[-2] == changes[-1]["source"]
    assert sweep.trials[1].params != sweep.trials[1].settings == changes[-1]["params"]
    frozen = tune.searcher.study.trials[1]
    assert frozen.state == TrialState.COMPLETE and frozen.user_attrs["changes"] == changes
    assert frozen.params == sweep.trials[1].params and frozen.value == sweep.trials[1].value


def test_copying_trial_continues_with_its_changed_settings(tmp_path: Path) -> None:
    sweep, tune = play(tmp_path)
    configuration = json.loads(tune.trials[1].config["configuration"])
    assert tune.trials[1].config["number"] == 1
    assert configuration["method"]["temperature"] == sweep.trials[1].settings["temperature"]
    assert (
        configuration["training"]["learning_rate"]
        == sweep.trials[1].settings["training.learning_rate"]
    )


def test_the_order_of_the_reports_changes_nothing(tmp_path: Path) -> None:
    played = []
    for order in range(3):
        random.seed(order)  # other random draws have no effect
        played.append(play(tmp_path / str(order), order=order, concurrency=1 + order)[0])
    changes = [[trial.changes for trial in sweep.trials.values()] for sweep in played]
    assert all(each == changes[0] for each in changes) and any(changes[0])
    other, _ = play(tmp_path / "other", "seed=7")
    assert [trial.changes for trial in other.trials.values()] != changes[0]


@pytest.mark.parametrize("epoch", [1, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("number", [1, 2, 7])
def test_failed_trial_does_not_block_the_others(epoch: int, number: int, tmp_path: Path) -> None:
    def failing(each: int, at: int) -> float | None:
        return None if each == number and at == epoch else better_later(each, at)

    sweep, _ = play(tmp_path, score=failing, order=(number + epoch) % 2)
    states = {each: trial.state for each, trial in sweep.trials.items()}
    assert states.pop(number) == "failed" and set(states.values()) == {"complete"}
    late = [
        change
        for trial in sweep.trials.values()
        for change in trial.changes
        if change["epoch"] >= epoch
    ]
    assert not any(change["source"] == number for change in late), "no trial copies its weights"


def test_all_but_one_fail(tmp_path: Path) -> None:
    sweep, _ = play(tmp_path, score=lambda number, epoch: 0.5 if number == 3 else None)
    assert [number for number, trial in sweep.trials.items() if trial.state == "complete"] == [3]


def test_death_of_a_proxy_does_not_block_the_others(tmp_path: Path) -> None:
    sweep, searcher = begin(tmp_path, *PBT, "search.trials=4")
    tune = SimulatedTune(searcher, PbtScheduler(searcher, lambda: 4), better_later, 4)
    while not all(trial.status == "PAUSED" and trial.epoch == 4 for trial in tune.trials[1:]):
        tune.run(1)
        tune.trials[0].epoch = 0  # it is slow
    assert not sweep.trials[1].changes
    tune.die(tune.trials[0])
    tune.run()
    assert [trial.state for trial in sweep.trials.values()] == [
        "failed",
        "complete",
        "complete",
        "complete",
    ]
    assert sweep.trials[1].changes


@pytest.mark.parametrize("num_reports", [5, 19, 33, 41, 60])
def test_resumed_population_keeps_its_settings_and_compares_again(
    num_reports: int, tmp_path: Path
) -> None:
    sweep, searcher = begin(tmp_path, *PBT, "search.trials=6")
    SimulatedTune(searcher, PbtScheduler(searcher, lambda: 2), better_later, 2).run(num_reports)
    before = {number: trial.changes for number, trial in sweep.trials.items()}
    slowest = min(trial.epochs for trial in sweep.trials.values() if not trial.ended)
    found, again = resumed(sweep)
    scheduler = PbtScheduler(again, lambda: 2)
    assert scheduler._next_perturbation_sync == (slowest // 4 + 1) * 4
    tune = SimulatedTune(again, scheduler, better_later, 2)
    for number, changes in before.items():
        started = next((trial for trial in tune.trials if trial.config["number"] == number), None)
        if changes and started:
            learning_rate = json.loads(started.config["configuration"])["training"]["learning_rate"]
            assert learning_rate == changes[-1]["params"]["training.learning_rate"]
    tune.run()
    assert {trial.state for trial in found.trials.values()} == {"complete"}
    assert all(len(trial.history) == 12 for trial in found.trials.values())


def test_copy_missed_by_a_dead_driver_is_done_on_resume(tmp_path: Path) -> None:
    sweep, searcher = begin(tmp_path, *PBT, "search.trials=4")
    SimulatedTune(searcher, PbtScheduler(searcher, lambda: 4), better_later, 4).run(16)
    changed = next(trial for trial in sweep.trials.values() if trial.changes)
    _, again = resumed(sweep)
    configs = {
        config["number"]: config for config in (again.suggest(str(number)) for number in range(4))
    }
    source = sweep.trial_folder(changed.changes[-1]["source"])
    assert configs[changed.number]["snapshot"] == str(snapshots.folder(source, 4))
    assert all(
        "snapshot" not in config
        for number, config in configs.items()
        if not sweep.trials[number].changes
    )


def test_a_population_does_not_grow(tmp_path: Path) -> None:
    sweep, _ = begin(tmp_path, *PBT, "search.trials=6")
    with pytest.raises(
        ConfigurationError,
        match=r"--trials 9 is not allowed: the population of 'mine' always has 6 trials",
    ):
        sweep_command.sweep(Path("none.yaml"), [], tmp_path, None, None, False, 9, None, sweep.name)


def test_changes_are_in_the_records_and_the_status(tmp_path: Path) -> None:
    sweep, _ = play(tmp_path)
    found = Sweep.open(Store(tmp_path), "mine")
    assert found.trials == sweep.trials
    summary = found.status()["trials"][1]
    assert (
        summary["settings"] == sweep.trials[1].settings
        and summary["params"] == sweep.trials[1].params
    )
    assert (
        "copied the weights of trial " in found.trials[1].remarks
        and "after epoch 8" in found.trials[1].remarks
    )
    assert (
        found.status()["trials"][2]["settings"] == found.trials[2].params
        and not found.trials[2].remarks
    )


@pytest.mark.parametrize("order", range(3))
def test_no_trial_copies_weights_of_another_method(order: int, tmp_path: Path) -> None:
    """Trials begin with a baseline of each method; the best ones all have one method."""
    methods = (
        "search.methods=[cross_entropy, kd, ttm]",
        "search.trials=12",
        "search.quantile=0.5",
        "seed=3",
    )
    best_of = {"kd": 0.5, "cross_entropy": 0.1, "ttm": 0.3}
    named: dict[int, str] = {}

    def score(number: int, epoch: int) -> float:
        return best_of[named[number]] + 0.01 * number + 0.001 * epoch

    sweep, searcher = begin(tmp_path, *PBT, *methods)
    tune = SimulatedTune(searcher, PbtScheduler(searcher, lambda: 3), score, 3, order)
    named |= {number: trial.params["method.name"] for number, trial in sweep.trials.items()}
    tune.run()
    assert set(named.values()) == set(best_of)
    for trial in sweep.trials.values():
        assert trial.settings["method.name"] == trial.params["method.name"]
        assert all(named[change["source"]] == named[trial.number] for change in trial.changes)
    assert any(trial.changes for trial in sweep.trials.values()), (
        "those that have a better one of their own take over"
    )
    lone = [trial for trial in sweep.trials.values() if named[trial.number] == "cross_entropy"]
    assert lone and not any(trial.changes for trial in lone), "none of the best is of its method"


def test_trial_starts_at_its_first_turn_and_records_waiting(tmp_path: Path) -> None:
    watch = Watch()
    _, searcher = begin(tmp_path, *PBT, "search.trials=8", listeners=[watch])
    tune = SimulatedTune(searcher, PbtScheduler(searcher, lambda: 2), better_later, 2)
    assert {trial.state for trial in Sweep.open(Store(tmp_path), "mine").trials.values()} == {
        "waiting"
    } and not watch.started
    tune.run(1)
    assert sorted(watch.started) == [0, 1]
    assert (
        sum(
            trial.state == "running"
            for trial in Sweep.open(Store(tmp_path), "mine").trials.values()
        )
        == 2
    )
    tune.run()
    assert sorted(watch.started) == list(range(8)), "once each, however many turns it has"


def test_trials_that_never_ran_wait_for_a_resume_after_the_time_budget(tmp_path: Path) -> None:
    watch = Watch()
    sweep, searcher = begin(tmp_path, *PBT, "search.trials=8", listeners=[watch])
    SimulatedTune(searcher, PbtScheduler(searcher, lambda: 2), better_later, 2).run(10)
    searcher.limit_time()
    started = set(watch.started)
    assert 2 <= len(started) < 8
    found = Sweep.open(Store(tmp_path), "mine")
    assert {number: trial.state for number, trial in found.trials.items()} == {
        number: "stopped_early" if number in started else "waiting" for number in range(8)
    }
    assert {number for number, _ in watch.ended} == started
    again, goes_on = resumed(sweep)
    SimulatedTune(goes_on, PbtScheduler(goes_on, lambda: 2), better_later, 2).run()
    assert all(again.trials[number].state == "complete" for number in set(range(8)) - started)


def test_the_rates_of_all_students_vary_and_a_choice_is_inherited(tmp_path: Path) -> None:
    pairs = (
        "peers.b.network.name=mlp",
        "search.extra_space={student.width: [8, 16, 32]}",
        "search.trials=2",
        *PBT,
    )
    sweep, searcher = begin(tmp_path, *pairs)
    for name in "xy":
        searcher.suggest(name)
    rates = ("training.learning_rate", "peers.b.training.learning_rate")

    def vary(settings: dict[str, Any], bounds: dict[str, Any]) -> dict[str, Any]:
        return explore(settings, bounds, 0.0, "seed")

    taken = json.loads(searcher.take_over(1, 0, 4, vary)["configuration"])
    donor, taker = sweep.trials[0].settings, sweep.trials[1].settings
    assert set(rates) <= set(taker)
    assert taken["student"]["width"] == donor["student.width"] == taker["student.width"]
    assert taken["peers"]["b"]["training"]["learning_rate"] == taker[rates[1]]
    for rate in rates:
        assert any(taker[rate] == pytest.approx(factor * donor[rate]) for factor in (0.8, 1.2))
