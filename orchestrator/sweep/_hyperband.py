"""Hyperband: in each bracket the trials wait at milestones until all are there, and the best go on. Ray's, with its gaps closed."""

from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import HyperBandScheduler, TrialScheduler

from orchestrator.sweep._study import objective
from orchestrator.sweep._synchronous import SynchronousSearch, next_to_run


class HyperbandBrackets(HyperBandScheduler):
    """Ray's synchronous Hyperband over our own `epoch`.

    The brackets of a resumed sweep are built anew from its unfinished trials.
    """

    def __init__(self, asking: SynchronousSearch, at_once: Callable[[], int]) -> None:
        search = asking.configuration.search
        super().__init__(
            time_attr="epoch",
            **objective(search),
            max_t=asking.configuration.training.epochs,
            reduction_factor=search.reduction_factor,
            stop_last_trials=False,  # a last milestone may lie before the last epoch, and only that one reads the test part
        )
        self.asking, self.at_once = asking, at_once

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial takes its place in a bracket and waits for a group."""
        super().on_trial_add(tune_controller, trial)
        self._state["bracket"].trials_to_unpause.add(trial)
        trial.set_status(TuneTrial.PAUSED)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """The next trial of the bracket that is least advanced, with the milestone at which it stops."""
        trial = next_to_run(super().choose_trial_to_run, self.asking, self.at_once, tune_controller)
        if trial:
            bracket, _ = self._trial_info[trial]
            trial.config["until"] = int(bracket._cumul_r) if bracket._halves else None
        return trial

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on, waits, or is stopped; one that goes on past its milestone begins anew with the next one."""
        decision = str(super().on_trial_result(tune_controller, trial, result))
        until = trial.config["until"]
        if decision == TrialScheduler.CONTINUE and until is not None and result["epoch"] >= until:
            self._trial_info[trial][0].trials_to_unpause.add(trial)
            return str(TrialScheduler.PAUSE)
        return decision

    def _process_bracket(self, tune_controller: Any, bracket: Any) -> str:
        """Ray marks a bracket while it is processed and forgets to unmark it: a failure would leave the others waiting for ever.

        So would trials of a resumed sweep that are past the next milestone already: they are compared there at once.
        """
        action = str(super()._process_bracket(tune_controller, bracket))
        while bracket._halves and bracket._live_trials and bracket.cur_iter_done():
            again = str(super()._process_bracket(tune_controller, bracket))
            action = action if action == TrialScheduler.STOP else again
        bracket.is_being_processed = False
        return action
