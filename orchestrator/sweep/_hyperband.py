"""Synchronous Hyperband: Ray's scheduler over our own `epoch`, with two corrections.

In each bracket the trials wait at milestones until all have arrived; then the best continue.
"""

from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import HyperBandScheduler, TrialScheduler

from orchestrator.sweep._synchronous import SynchronousSearch, choose_next_trial
from orchestrator.sweep._tune_search import objective


class HyperbandBrackets(HyperBandScheduler):
    """Ray's synchronous Hyperband over our own `epoch`.

    The brackets of a resumed sweep are rebuilt from its unfinished trials.
    """

    def __init__(self, searcher: SynchronousSearch, concurrency: Callable[[], int]) -> None:
        search = searcher.configuration.search
        super().__init__(
            time_attr="epoch",
            **objective(search),
            max_t=searcher.configuration.training.epochs,
            reduction_factor=search.reduction_factor,
            # a last milestone may lie before the last epoch, and only that one reads the test part
            stop_last_trials=False,
        )
        self.searcher, self.concurrency = searcher, concurrency

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial to a bracket, paused until a group is free."""
        super().on_trial_add(tune_controller, trial)
        self._state["bracket"].trials_to_unpause.add(trial)
        trial.set_status(TuneTrial.PAUSED)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return the next trial of the least advanced bracket, with its next milestone."""
        trial = choose_next_trial(
            super().choose_trial_to_run, self.searcher, self.concurrency, tune_controller
        )
        if trial:
            bracket, _ = self._trial_info[trial]
            trial.config["until"] = int(bracket._cumul_r) if bracket._halves else None
        return trial

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether the trial continues, pauses or stops.

        A trial that continues past its milestone is paused first, and starts again with the next
        milestone.
        """
        decision = str(super().on_trial_result(tune_controller, trial, result))
        until = trial.config["until"]
        if decision == TrialScheduler.CONTINUE and until is not None and result["epoch"] >= until:
            self._trial_info[trial][0].trials_to_unpause.add(trial)
            return str(TrialScheduler.PAUSE)
        return decision

    def _process_bracket(self, tune_controller: Any, bracket: Any) -> str:
        """Process a bracket, and correct two cases in which trials would wait for ever.

        Ray marks a bracket while it is processed and does not unmark it, so that a failure blocks
        the other trials. Trials of a resumed sweep may already be past the next milestone: they are
        compared at once.
        """
        action = str(super()._process_bracket(tune_controller, bracket))
        while bracket._halves and bracket._live_trials and bracket.cur_iter_done():
            again = str(super()._process_bracket(tune_controller, bracket))
            action = action if action == TrialScheduler.STOP else again
        bracket.is_being_processed = False
        return action
