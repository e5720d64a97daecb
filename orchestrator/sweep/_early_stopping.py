"""Stop weak trials early by ASHA or the median rule, over one value of a trial at a time."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from orchestrator.config.objectives import primary_goal
from orchestrator.config.plan import asha_rungs
from orchestrator.config.schema import Configuration, Search
from orchestrator.config.search_space import list_initial_points
from orchestrator.store.records import Trial

MEDIAN_OF = 3  # a median of fewer averages does not justify stopping a trial


class StoppingRule(ABC):
    """Rule that decides after each epoch whether a trial stops.

    The hooks get values of which higher ones are better, whatever the direction of the search.

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
        is_too_weak = self._is_too_weak(number, epoch, self.sign * value)
        self.record(number, epoch, value)
        return is_too_weak and number >= self.protected

    def record(self, number: int, epoch: int, value: float) -> None:
        """Record the value of a trial after an epoch that is decided already."""
        self.last_epochs[number] = epoch
        self._record(number, epoch, self.sign * value)

    @abstractmethod
    def _is_too_weak(self, number: int, epoch: int, value: float) -> bool:
        """Return whether a trial with this new value is too weak to continue."""

    @abstractmethod
    def _record(self, number: int, epoch: int, value: float) -> None:
        """Record a value."""


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
        values = list(self._find_rung(number, epoch).values())
        return bool(values and value < np.percentile(values, (1 - self.kept_share) * 100))

    def _record(self, number: int, epoch: int, value: float) -> None:
        self._find_rung(number, epoch)[number] = value

    def _find_rung(self, number: int, epoch: int) -> dict[int, float]:
        """Return the values of the rung that a trial enters; an empty one if it enters none."""
        return next(
            (
                values
                for milestone, values in self.rungs
                if epoch >= milestone and number not in values
            ),
            {},
        )


@dataclass
class _History:
    """Values of a trial: the best one, and the sums of those after the grace epochs.

    Attributes:
        last_epoch: The last epoch with a value.
        best: The best value.
        epochs: The epochs of the sums.
        sums: The sum of the values up to each of these epochs.
    """

    last_epoch: int = 0
    best: float = -math.inf
    epochs: list[int] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)

    def average(self, until: int) -> float:
        """Return the mean of the values up to an epoch; NaN without a value."""
        count = bisect_right(self.epochs, until)
        return self.sums[count - 1] / count if count else math.nan


class MedianRule(StoppingRule):
    """Median stopping rule (https://research.google.com/pubs/pub46180.html).

    A trial stops if its best value is worse than the median of the other trials' averages up to the
    same epoch.
    """

    def __init__(self, search: Search, protected: int = 0) -> None:
        super().__init__(search, protected)
        self.grace_epochs = search.grace_epochs
        self.histories: dict[int, _History] = defaultdict(_History)

    def _is_too_weak(self, number: int, epoch: int, value: float) -> bool:
        if epoch < self.grace_epochs:
            return False
        averages = [
            history.average(epoch)
            for other, history in self.histories.items()
            if other != number and history.last_epoch >= epoch
        ]
        finite = [average for average in averages if math.isfinite(average)]
        if len(finite) < MEDIAN_OF:
            return False
        return bool(np.median(finite) > max(self.histories[number].best, value))

    def _record(self, number: int, epoch: int, value: float) -> None:
        history = self.histories[number]
        history.last_epoch, history.best = epoch, max(history.best, value)
        if epoch >= self.grace_epochs:
            history.epochs.append(epoch)
            history.sums.append((history.sums[-1] if history.sums else 0.0) + value)


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
            rule.record(trial.number, epoch, value)
    return rule
