"""Shared parts of the synchronous schedulers, Hyperband and PBT.

All trials exist before the first one trains, because they are compared together. A waiting trial is
paused: it has no process and no group. As many trials run as there are groups. The epoch after
which the worker of a trial stops is known beforehand.
"""

from collections.abc import Callable
from typing import Any

import optuna
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search import Searcher

from orchestrator.config.schema import Configuration
from orchestrator.store.records import Sweep, Trial
from orchestrator.sweep import _snapshots as snapshots
from orchestrator.sweep._tune_search import StudySearch
from orchestrator.sweep.events import Events

BUSY = (TuneTrial.PENDING, TuneTrial.RUNNING)


class SynchronousSearch(StudySearch):
    """Searcher that returns `total` trials when Tune starts.

    Tune reuses the proxies until the search is finished.
    """

    def __init__(
        self,
        study: optuna.Study,
        configuration: Configuration,
        events: Events,
        unfinished: list[Trial],
        total: int,
    ) -> None:
        super().__init__(study, configuration, events, unfinished)
        self.total = total

    def record(self, trial: Any) -> Trial:
        """Return the sweep's record of one of Tune's trials."""
        return self.events.sweep.trials[trial.config["number"]]

    def _start_trial(self, trial: Trial) -> None:
        self.events.wait(trial)

    def suggest(self, trial_id: str) -> Any:
        """Return the next trial, None while the last ones train, FINISHED when all have ended."""
        if len(self.trials) == self.total:
            if any(not trial.ended for trial in self.trials.values()):
                return None
            return Searcher.FINISHED
        config = super().suggest(trial_id)
        trial = self.trials[trial_id]
        # the run may have ended before the weights were copied
        if trial.changes and trial.changes[-1]["epoch"] >= trial.epochs:
            change, sweep = trial.changes[-1], self.events.sweep
            config["snapshot"] = str(
                snapshots.folder(sweep.trial_folder(change["source"]), change["epoch"])
            )
        return config


def choose_next_trial(
    choose_trial: Any, searcher: SynchronousSearch, concurrency: Callable[[], int], controller: Any
) -> Any:
    """Return the trial that a scheduler chooses, and record that it runs.

    Return None while `concurrency()` trials run.

    Args:
        choose_trial: Function that chooses a trial from a controller.
    """
    trials = controller.get_trials()
    for trial in trials:
        if trial.status == TuneTrial.PAUSED and searcher.record(trial).state == "running":
            searcher.events.wait(searcher.record(trial))
    if sum(trial.status in BUSY for trial in trials) >= concurrency():
        return None
    chosen = choose_trial(controller)
    if chosen:
        searcher.events.start(searcher.record(chosen))
    return chosen


def remove_snapshots(sweep: Sweep) -> None:
    """Remove the snapshots of all trials, from which no trial continues any more."""
    for number in sweep.trials:
        snapshots.remove(sweep.trial_folder(number))
