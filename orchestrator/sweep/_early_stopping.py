"""Stop weak trials early by ASHA or the median rule, over one value of a trial at a time."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np

from orchestrator.config.objectives import primary_goal
from orchestrator.config.plan import asha_rungs
from orchestrator.config.schema import Configuration, Search
from orchestrator.config.search_space import list_initial_points
from orchestrator.store.records import Trial

MEDIAN_OF = 3  # a median of fewer averages does not justify stopping a trial


class StoppingRule(ABC):
    """Rule that decides after each epoch whether a trial stops.

    Higher values are better in `_is_too_weak`, whatever the direction of the search.

    Args:
        search: The settings of the search.
        protected: The first trials, which are recorded like any other but never stopped, because
            they serve as baselines.
    """

    def __init__(self, search: Search, protected: int = 0) -> None:
        self.sign = 1.0 if primary_goal(search).direction == "maximize" else -1.0
        self.protected = protected
        self.last_epochs: dict[int, int] = {}  # by trial number

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Record the value of a trial after an epoch, and return whether the trial stops.

        An epoch that was reported before, as after a resume, decides nothing.
        """
        if epoch <= self.last_epochs.get(number, 0):
            return False
        self.last_epochs[number] = epoch
        return self._is_too_weak(number, epoch, self.sign * value) and number >= self.protected

    @abstractmethod
    def _is_too_weak(self, number: int, epoch: int, value: float) -> bool:
        """Record a value, and return whether the trial is too weak to continue."""


class Asha(StoppingRule):
    """Asynchronous successive halving (https://arxiv.org/abs/1810.05934) with one bracket.

    A rung holds the value of each trial that has reached it. A trial stops if it is not among the
    best `1 / search.reduction_factor` of those that have reached the rung before.
    """

    def __init__(self, search: Search, epochs: int, protected: int = 0) -> None:
        super().__init__(search, protected)
        self.kept_share = 1 / search.reduction_factor
        # the last epoch is the end of a trial, which needs no decision
        milestones = asha_rungs(search, epochs)[:-1]
        self.rungs: list[tuple[int, dict[int, float]]] = [
            (milestone, {}) for milestone in reversed(milestones)
        ]

    def _is_too_weak(self, number: int, epoch: int, value: float) -> bool:
        for milestone, values in self.rungs:
            if epoch >= milestone and number not in values:
                known = list(values.values())
                values[number] = value
                return bool(known and value < np.percentile(known, (1 - self.kept_share) * 100))
        return False


class MedianRule(StoppingRule):
    """Median stopping rule (https://research.google.com/pubs/pub46180.html).

    A trial stops if its best value is worse than the median of the other trials' averages up to the
    same epoch.
    """

    def __init__(self, search: Search, protected: int = 0) -> None:
        super().__init__(search, protected)
        self.grace_epochs = search.grace_epochs
        self.histories: dict[int, list[tuple[int, float]]] = {}

    def _is_too_weak(self, number: int, epoch: int, value: float) -> bool:
        own = self.histories.setdefault(number, [])
        own.append((epoch, value))
        if epoch < self.grace_epochs:
            return False
        averages = [
            self._average(history, epoch)
            for other, history in self.histories.items()
            if other != number and history[-1][0] >= epoch
        ]
        finite = [average for average in averages if math.isfinite(average)]
        if len(finite) < MEDIAN_OF:
            return False
        return bool(np.median(finite) > max(value for _, value in own))

    def _average(self, history: list[tuple[int, float]], until: int) -> float:
        values = [value for epoch, value in history if self.grace_epochs <= epoch <= until]
        return float(np.mean(values)) if values else math.nan


def list_decision_epochs(configuration: Configuration) -> tuple[int, ...]:
    """Return the epochs of ASHA's rungs before the last epoch; none for the other schedulers.

    The median rule decides after every epoch.
    """
    return tuple(asha_rungs(configuration.search, configuration.training.epochs)[:-1])


def build_stopping_rule(
    configuration: Configuration, trials: Iterable[Trial] = ()
) -> StoppingRule | None:
    """Return the rule of the configuration with the values of earlier trials; None without a rule.

    Failed trials do not count.
    """
    search = configuration.search
    protected = len(list_initial_points(configuration)) if search.protect_initial_trials else 0
    rule: StoppingRule
    if search.scheduler == "asha":
        rule = Asha(search, configuration.training.epochs, protected)
    elif search.scheduler == "median":
        rule = MedianRule(search, protected)
    else:
        return None
    for trial in trials:
        for epoch, value in trial.known if trial.state != "failed" else ():
            rule.report(trial.number, epoch, value)
    return rule
