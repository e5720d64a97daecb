"""Compare our stopping rules with Ray's own schedulers on random histories."""

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.store.records import Trial
from orchestrator.sweep._early_stopping import MEDIAN_OF, StoppingRule, build_stopping_rule
from orchestrator.sweep._scheduler import StoppingScheduler

OBJECTIVE = {"max": "validation/accuracy", "min": "validation/nll"}
NO_CONTROLLER: Any = SimpleNamespace(get_live_trials=list)


def configure(
    scheduler: str, mode: str, epochs: int, grace_epochs: int, factor: int, protect: bool
) -> Configuration:
    return load(
        None,
        [
            "method.name=kd",
            f"training.epochs={epochs}",
            f"search.scheduler={scheduler}",
            f"search.objective={OBJECTIVE[mode]}",
            f"search.direction={mode}imize",
            f"search.grace_epochs={grace_epochs}",
            f"search.reduction_factor={factor}",
            f"search.protect_initial_trials={str(protect).lower()}",
        ],
    )


class RaysOwn:
    """Ray's scheduler of a configuration, as Tune calls it with results of our epochs."""

    def __init__(self, configuration: Configuration, mode: str) -> None:
        search = configuration.search
        self.metric = OBJECTIVE[mode]
        common: dict[str, Any] = {"time_attr": "epoch", "metric": self.metric, "mode": mode}
        self.scheduler: Any
        if search.scheduler == "asha":
            self.scheduler = ASHAScheduler(
                max_t=configuration.training.epochs,
                grace_period=search.grace_epochs,
                reduction_factor=search.reduction_factor,
                **common,
            )
        else:
            self.scheduler = MedianStoppingRule(
                grace_period=search.grace_epochs, min_samples_required=MEDIAN_OF, **common
            )
        self.trials: dict[int, Any] = {}

    def report(self, number: int, epoch: int, value: float, last: bool) -> bool:
        """Return whether Ray stops the trial; its last epoch ends it anyway."""
        if number not in self.trials:
            self.trials[number] = TuneTrial(number)
            self.scheduler.on_trial_add(NO_CONTROLLER, self.trials[number])
        result = {"epoch": epoch, self.metric: value}
        if last:
            self.scheduler.on_trial_complete(NO_CONTROLLER, self.trials[number], result)
            return False
        decision = self.scheduler.on_trial_result(NO_CONTROLLER, self.trials[number], result)
        return bool(decision == TrialScheduler.STOP)


class TuneTrial:
    """Ray's view of a trial, which can be a key of a dictionary."""

    def __init__(self, number: int) -> None:
        self.trial_id, self.config = f"id-{number}", {"number": number}


def play(
    rule: StoppingRule, rays: RaysOwn, histories: np.ndarray, seed: int, share: float
) -> tuple[dict[int, Trial], int]:
    """Report the histories of some trials in a random order to both, until they stop or end.

    The order has about this share of all epochs. Return the records of the trials, and how
    many stopped.
    """
    random, (trials, epochs) = np.random.default_rng(seed), histories.shape
    records = {number: Trial(number, {}, state="running") for number in range(trials)}
    stopped = 0
    for number in random.integers(trials, size=int(share * trials * epochs)):
        trial, epoch = records[number], records[number].epochs + 1
        if trial.ended:
            continue
        value = float(histories[number, epoch - 1])
        last = epoch == epochs
        stops, expected = rule.report(number, epoch, value), rays.report(number, epoch, value, last)
        if not last:
            assert stops == (expected and number >= rule.protected), (number, epoch)
        trial.history.append(value)
        trial.epochs = epoch
        stops = stops and not last
        # one that Ray would stop reports no more to it
        if stops or last or (expected and number < rule.protected):
            trial.state = "stopped_early" if stops else "complete"
            stopped += stops
    return records, stopped


@pytest.mark.parametrize(
    ("scheduler", "mode", "protect"),
    itertools.product(("asha", "median"), ("max", "min"), (False, True)),
)
def test_decisions_equal_those_of_ray(scheduler: str, mode: str, protect: bool) -> None:
    stopped = 0
    for seed in range(15):
        random = np.random.default_rng(seed)
        epochs, trials = int(random.integers(2, 28)), int(random.integers(3, 14))
        grace_epochs, factor = (
            int(random.integers(1, min(epochs, 5) + 1)),
            int(random.integers(2, 5)),
        )
        configuration = configure(scheduler, mode, epochs, grace_epochs, factor, protect)
        rule = build_stopping_rule(configuration)
        assert rule is not None and rule.protected == protect
        # few different values, so that some are equal
        histories = random.integers(20, size=(trials, epochs)) / 10
        stopped += play(rule, RaysOwn(configuration, mode), histories, seed, 0.9)[1]
    assert stopped, "some histories are stopped"


@pytest.mark.parametrize(
    ("scheduler", "mode"), itertools.product(("asha", "median"), ("max", "min"))
)
def test_a_resumed_rule_decides_as_the_one_before_it(scheduler: str, mode: str) -> None:
    stopped = 0
    for seed in range(10):
        random = np.random.default_rng(seed)
        configuration = configure(scheduler, mode, 18, 2, 3, protect=True)
        histories = random.integers(20, size=(10, 18)) / 10
        rule, rays = build_stopping_rule(configuration), RaysOwn(configuration, mode)
        assert rule is not None
        records, _ = play(rule, rays, histories, seed, 0.2)
        resumed = build_stopping_rule(configuration, records.values())
        assert resumed is not None
        for number, trial in records.items():
            if trial.ended or not trial.epochs:
                continue
            assert not resumed.report(number, trial.epochs, 99.0), "a repeated epoch"
            for epoch in range(trial.epochs + 1, 18):
                value = float(histories[number, epoch - 1])
                stops = resumed.report(number, epoch, value)
                assert stops == rule.report(number, epoch, value)
                expected = rays.report(number, epoch, value, last=False)
                assert stops == (expected and number >= rule.protected)
                stopped += stops
                if expected:
                    break
    assert stopped


def test_tune_gets_the_decisions_of_the_rule() -> None:
    configuration = configure("asha", "max", 9, 1, 3, protect=False)
    scheduler = StoppingScheduler(build_stopping_rule(configuration), OBJECTIVE["max"])
    decisions = []
    for number, value in enumerate((0.9, 0.5, 0.95)):
        trial = TuneTrial(number)
        scheduler.on_trial_add(NO_CONTROLLER, trial)
        result = {"epoch": 1, OBJECTIVE["max"]: value}
        decisions.append(scheduler.on_trial_result(NO_CONTROLLER, trial, result))
    assert decisions == ["CONTINUE", "STOP", "CONTINUE"]
    scheduler.on_trial_complete(NO_CONTROLLER, trial, {"failed": "it diverged", "done": True})
    scheduler.on_trial_complete(NO_CONTROLLER, trial, {"epoch": 2, OBJECTIVE["max"]: 0.9})
    assert scheduler.rule is not None and scheduler.rule.last_epochs == {0: 1, 1: 1, 2: 2}


def test_without_a_scheduler_no_trial_stops() -> None:
    rule = build_stopping_rule(load(None, ["search.scheduler=none"]))
    assert rule is None
    trial: Any = TuneTrial(0)
    result = {"epoch": 1, OBJECTIVE["max"]: 0.0}
    scheduler = StoppingScheduler(rule, OBJECTIVE["max"])
    assert scheduler.on_trial_result(NO_CONTROLLER, trial, result) == "CONTINUE"
