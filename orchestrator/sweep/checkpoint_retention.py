"""Remove checkpoints of trials that are neither among the best nor needed to resume.

The best trials, those on the Pareto front, and those that may resume keep their weights. Trials
that end later do not change the order of earlier ones, and a dominated trial stays dominated.
Removed weights are therefore never needed again.
"""

import logging
import threading
from collections.abc import Callable

from orchestrator.core.signals import remaining_timeout
from orchestrator.store.checkpoint_storage import checkpoint_storage
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.retained_weights import trials_with_weights
from orchestrator.store.store import Store

LONGEST_S = 60.0  # for a store that does not answer; a resume removes the rest
log = logging.getLogger(__name__)


class RetentionPolicy:
    """Listener that removes unneeded weights, also those of an earlier run.

    `released` returns whether no group trains a trial any more: a stopped or lost trial may still
    be writing a checkpoint.
    """

    def __init__(self, store: Store, sweep: Sweep, released: Callable[[int], bool]) -> None:
        self.store, self.sweep, self.released = store, sweep, released
        # trials that may still have their weights
        self.heavy = {trial.number for trial in sweep.trials.values() if trial.ended}
        self.due: set[int] = set()  # unneeded weights that are not released or not removed yet
        self.removing = threading.Thread()
        self._remove(self.heavy - trials_with_weights(sweep))

    def tidy(self) -> None:
        """Remove weights that are not needed and that no group is writing."""
        unneeded = self.heavy - trials_with_weights(self.sweep)
        self._remove(
            {
                number
                for number in unneeded
                if self.sweep.trials[number].state == "complete" or self.released(number)
            }
        )
        self.due = unneeded & self.heavy

    def _remove(self, numbers: set[int]) -> None:
        """Remove weights, in a thread if the store is a URI, which may not answer for minutes.

        Weights that could not be removed are removed at a later call.
        """
        if numbers and self.store.uri and not self.removing.is_alive():
            self.removing = threading.Thread(target=self._strip, args=(numbers,), daemon=True)
            self.removing.start()
        elif not self.store.uri:
            self._strip(numbers)

    def _strip(self, numbers: set[int]) -> None:
        for number in sorted(numbers):
            try:
                checkpoint_storage(self.store, self.sweep.trial_folder(number)).remove_large_files()
                self.heavy.discard(number)
            except OSError as error:  # of a store that does not answer
                log.warning("the weights of trial %d are not removed yet: %s", number, error)

    def trial_started(self, trial: Trial) -> None:
        """Remove weights that are due: a stopped trial may have released its group."""
        if self.due:
            self.tidy()

    def trial_reported(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """Remove weights that are due."""
        if self.due:
            self.tidy()

    def trial_changed(self, trial: Trial) -> None:
        """Do nothing: the weights that the trial copies are still needed."""

    def trial_ended(self, trial: Trial) -> None:
        """Remove weights that are no longer needed after the end of the trial."""
        if trial.ended:
            self.heavy.add(trial.number)
            self.tidy()

    def note(self, text: str) -> None:
        """Do nothing: a note is not about weights."""


def remove_losers(store: Store, sweep: Sweep) -> None:
    """Remove all unneeded weights of a sweep that no group trains."""
    removing = RetentionPolicy(store, sweep, lambda _: True).removing
    if removing.ident is not None:
        removing.join(remaining_timeout(LONGEST_S, spare_s=10.0))
