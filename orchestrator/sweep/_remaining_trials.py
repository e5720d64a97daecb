"""Open the trials of a sweep that have not ended, and connect their ends to workers and store."""

from dataclasses import dataclass
from typing import Protocol

import optuna

from orchestrator.config.trial import trial_name
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._failures import FailuresInARow
from orchestrator.sweep._reconcile import reconcile
from orchestrator.sweep._study import open_study
from orchestrator.sweep.checkpoint_retention import RetentionPolicy
from orchestrator.sweep.events import Events
from orchestrator.teacher.acquire import TrialDispatcher


class ReleasingDispatcher(TrialDispatcher, Protocol):
    """Backend that trains, and that reports whether it has released a trial."""

    def is_released(self, trial: str) -> bool:
        """Return whether no worker trains the trial."""


@dataclass(frozen=True)
class RemainingTrials:
    """Trials of a sweep that have not ended.

    Attributes:
        study: The study, reconciled with the records.
        unfinished: The trials that have started.
        count: The number of trials to train, with those that have not started.
        events: The events of the sweep; the end of a trial frees its workers and its weights.
        failures: The count of failures in a row.
    """

    study: optuna.Study
    unfinished: list[Trial]
    count: int
    events: Events
    failures: FailuresInARow


def open_remaining_trials(
    store: Store, sweep: Sweep, dispatcher: ReleasingDispatcher, events: Events, resume: bool
) -> RemainingTrials:
    """Open the study of a sweep and return the trials that have not ended.

    Args:
        dispatcher: The backend that trains.
        events: The events of the sweep.
        resume: Open the existing study.
    """
    configuration = sweep.configuration
    study = open_study(sweep.folder, configuration, resume)
    reconcile(study, sweep)
    unfinished = [trial for trial in sweep.trials.values() if not trial.ended]
    failures = FailuresInARow(configuration.search.max_failed_trials, sweep.trials)
    retention = RetentionPolicy(
        store, sweep, lambda number: dispatcher.is_released(trial_name(number))
    )
    for listener in (_Release(dispatcher), retention, failures):
        events = events.with_listener(listener)
    count = configuration.search.trials - len(sweep.trials) + len(unfinished)
    return RemainingTrials(study, unfinished, count, events, failures)


class _Release:
    """Listener that stops the training of a trial that has ended, and so frees its workers."""

    def __init__(self, dispatcher: TrialDispatcher) -> None:
        self.dispatcher = dispatcher

    def trial_started(self, trial: Trial) -> None:
        """Do nothing: the trial has not ended."""

    def trial_reported(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """Do nothing: the trial continues."""

    def trial_changed(self, trial: Trial) -> None:
        """Do nothing: the workers have released the trial."""

    def trial_ended(self, trial: Trial) -> None:
        """Stop the trial in its workers."""
        self.dispatcher.stop(trial_name(trial.number))

    def note(self, text: str) -> None:
        """Do nothing: workers need no notes."""
