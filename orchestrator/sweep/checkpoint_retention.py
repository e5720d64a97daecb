"""Which trials keep their weights: the best ones, those on a Pareto front, and those that may be gone on with. Trains nothing.

The ranking of what has ended does not change by what ends later, and what is dominated stays so: nobody wants removed weights back.
"""

import logging
import threading
from collections.abc import Callable

from orchestrator.core.signals import remaining_timeout
from orchestrator.store.checkpoint_storage import checkpoint_storage
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.retained_weights import trials_with_weights
from orchestrator.store.store import Store

LONGEST_S = 60.0  # for a store that does not answer; what is left goes with a resume
log = logging.getLogger(__name__)


class RetentionPolicy:
    """Listens to a sweep, from before its first trial on, and removes the weights of its losers.

    `released` says whether no group works on a trial any more: who was stopped or lost may just write a checkpoint.
    """

    def __init__(self, store: Store, sweep: Sweep, released: Callable[[int], bool]) -> None:
        self.store, self.sweep, self.released = store, sweep, released
        self.heavy = {trial.number for trial in sweep.trials.values() if trial.ended}  # those that may have their weights
        self.due: set[int] = set()  # losers that were not released yet, or not removed
        self.removing = threading.Thread()
        self._remove(self.heavy - trials_with_weights(sweep))

    def tidy(self) -> None:
        """Remove the weights that nobody wants, and that nobody writes at this moment."""
        losers = self.heavy - trials_with_weights(self.sweep)
        self._remove({number for number in losers if self.sweep.trials[number].state == "complete" or self.released(number)})
        self.due = losers & self.heavy

    def _remove(self, numbers: set[int]) -> None:
        """Where the store is a URI beside everything else: it may not answer for minutes. What is left is due another time."""
        if numbers and self.store.uri and not self.removing.is_alive():
            self.removing = threading.Thread(target=self._strip, args=(numbers,), daemon=True)
            self.removing.start()
        elif not self.store.uri:
            self._strip(numbers)

    def _strip(self, numbers: set[int]) -> None:
        for number in sorted(numbers):
            try:
                checkpoint_storage(self.store, self.sweep.trial_folder(number)).strip()
                self.heavy.discard(number)
            except OSError as error:  # of a store that does not answer
                log.warning("the weights of trial %d are not removed yet: %s", number, error)

    def trial_started(self, trial: Trial) -> None:
        """A group was free: it may have held one that was stopped."""
        if self.due:
            self.tidy()

    def trial_reported(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """Time has passed."""
        if self.due:
            self.tidy()

    def trial_changed(self, trial: Trial) -> None:
        """What it takes over is still wanted."""

    def trial_ended(self, trial: Trial) -> None:
        """One more that may be a loser, or make one of another."""
        if trial.ended:
            self.heavy.add(trial.number)
            self.tidy()

    def note(self, text: str) -> None:
        """Not about weights."""


def remove_losers(store: Store, sweep: Sweep) -> None:
    """Remove the weights that nobody wants, of all trials. No group works on any."""
    removing = RetentionPolicy(store, sweep, lambda _: True).removing
    if removing.ident is not None:
        removing.join(remaining_timeout(LONGEST_S, spare_s=10.0))
