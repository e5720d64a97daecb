"""Schedulers under which trials wait for one another: what they share. Hyperband and the population stand beside it.

All trials exist before the first one trains, because a comparison of half of them is none. A trial that waits is paused: it has
no process and no group. As many run as there are groups; each is told beforehand after which epoch its worker stops.
"""

from collections.abc import Callable
from typing import Any

import optuna
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from orchestrator.config.schema import Configuration
from orchestrator.store.records import Sweep, Trial
from orchestrator.sweep import _snapshots as snapshots
from orchestrator.sweep._study import StudySearch
from orchestrator.sweep.events import Events

BUSY = (TuneTrial.PENDING, TuneTrial.RUNNING)


class SynchronousSearch(StudySearch):
    """Hands out `total` trials when Tune begins. Tune keeps a stand-in for reuse until the search has said its last word."""

    def __init__(
        self, study: optuna.Study, configuration: Configuration, events: Events, unfinished: list[Trial], total: int
    ) -> None:
        super().__init__(study, configuration, events, unfinished)
        self.total = total

    def record(self, trial: Any) -> Trial:
        """What the sweep knows of a trial of Tune."""
        return self.events.sweep.trials[trial.config["number"]]

    def _hand_out(self, trial: Trial) -> None:
        self.events.wait(trial)

    def suggest(self, trial_id: str) -> Any:
        """The next trial, None while the last ones train, FINISHED when all have ended."""
        if len(self.trials) == self.total:
            return None if any(not trial.ended for trial in self.trials.values()) else Searcher.FINISHED
        config = super().suggest(trial_id)
        trial = self.trials[trial_id]
        if trial.changes and trial.changes[-1]["epoch"] >= trial.epochs:  # the run may have ended before the take-over was done
            change, sweep = trial.changes[-1], self.events.sweep
            config["snapshot"] = str(snapshots.folder(sweep.trial_folder(change["source"]), change["epoch"]))
        return config


def next_to_run(ask: Any, asking: SynchronousSearch, at_once: Callable[[], int], controller: Any) -> Any:
    """The trial that a scheduler chooses by `ask`, if fewer than `at_once` are at work. The records say whose turn it is."""
    trials = controller.get_trials()
    for trial in trials:
        if trial.status == TuneTrial.PAUSED and asking.record(trial).state == "running":
            asking.events.wait(asking.record(trial))
    if sum(trial.status in BUSY for trial in trials) >= at_once():
        return None
    chosen = ask(controller)
    if chosen:
        asking.events.start(asking.record(chosen))
    return chosen


def remove_snapshots(sweep: Sweep) -> None:
    """Nobody takes over anything any more."""
    for number in sweep.trials:
        snapshots.remove(sweep.trial_folder(number))
