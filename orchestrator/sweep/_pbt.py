"""Population based training: weak trials copy the weights of strong ones and vary their settings.

Ray's scheduler decides after every few epochs which trial copies which. This module varies the
settings within the bounds of the study and keeps the records. The result depends neither on failed
trials nor on the order of reports.
"""

import math
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.schedulers.pbt import _PBTTrialState

from orchestrator.config.trial import Parameters
from orchestrator.sweep._synchronous import SynchronousSearch, choose_next_trial
from orchestrator.sweep._tune_search import objective

FACTORS = (0.8, 1.2)


def explore(
    settings: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    resample_probability: float,
    seed: str,
) -> Parameters:
    """Return settings near the given ones.

    Continuous settings are multiplied by 0.8 or 1.2, or redrawn; all others are inherited.

    Args:
        settings: Values by name.
        distributions: Distributions by name; no varied value is outside their bounds.
        resample_probability: Probability that a continuous setting is redrawn.
        seed: Equal seeds give equal results.
    """
    draw = random.Random(seed)
    varied = dict(settings)
    for name, value in settings.items():
        distribution = distributions.get(name)
        if isinstance(distribution, FloatDistribution):
            redraw = draw.random() < resample_probability
            varied[name] = _within(
                distribution,
                _draw_value(distribution, draw) if redraw else value * draw.choice(FACTORS),
            )
    return varied


def _draw_value(distribution: FloatDistribution, draw: random.Random) -> float:
    if distribution.log:
        return math.exp(draw.uniform(math.log(distribution.low), math.log(distribution.high)))
    return draw.uniform(distribution.low, distribution.high)


def _within(distribution: FloatDistribution, value: float) -> float:
    if distribution.step:
        value = (
            distribution.low
            + round((value - distribution.low) / distribution.step) * distribution.step
        )
    return float(min(max(value, distribution.low), distribution.high))


class PbtScheduler(PopulationBasedTraining):
    """Ray's synchronous PBT over our own `epoch`.

    The whole population waits until its last trial has trained up to the comparison.

    After a resume the next comparison is at the next multiple of `perturb_epochs` above the epochs
    of the slowest unfinished trial.
    """

    def __init__(self, searcher: SynchronousSearch, concurrency: Callable[[], int]) -> None:
        search = searcher.configuration.search
        super().__init__(
            time_attr="epoch",
            **objective(search),
            perturbation_interval=search.perturb_epochs,
            quantile_fraction=search.quantile,
            resample_probability=search.resample_probability,
            custom_explore_fn=dict,  # Ray requires one; `_get_new_config` explores
            log_config=False,
            require_attrs=False,  # a failed trial has none
            synch=True,
        )
        self.searcher, self.concurrency = searcher, concurrency
        slowest = min((trial.epochs for trial in searcher.unfinished), default=0)
        self._next_perturbation_sync = (
            slowest // search.perturb_epochs + 1
        ) * search.perturb_epochs

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial to the population, paused until a group is free.

        Ray's method would refuse this searcher.
        """
        state = self._trial_state[trial] = _PBTTrialState(trial)
        state.last_perturbation_time = self._next_perturbation_sync - self._perturbation_interval
        trial.set_status(TuneTrial.PAUSED)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """Return a trial that has not trained up to the next comparison, where its worker stops."""
        present = _PopulationController(tune_controller, self._trial_state)
        trial = choose_next_trial(
            super().choose_trial_to_run, self.searcher, self.concurrency, present
        )
        if trial:
            trial.config["until"] = self._next_perturbation_sync
        return trial

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether the trial continues or pauses; the last one starts the comparison."""
        before = random.getstate()
        # Ray draws the donors from it
        random.seed(f"{self.searcher.configuration.seed} {self._next_perturbation_sync}")
        try:
            return str(
                super().on_trial_result(
                    _PopulationController(tune_controller, self._trial_state), trial, result
                )
            )
        finally:
            random.setstate(before)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Remove the trial from the population."""
        self._remove_trial(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Remove the trial from the population."""
        self._remove_trial(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Remove the trial from the population."""
        self._remove_trial(tune_controller, trial)

    def _remove_trial(self, tune_controller: Any, trial: Any) -> None:
        """Remove a trial, and compare the others now if they waited only for it.

        Ray would let them wait for ever.
        """
        self._trial_state.pop(trial, None)
        times = [state.last_train_time for state in self._trial_state.values()]
        if times and min(times) >= self._next_perturbation_sync:
            last, state = list(self._trial_state.items())[-1]
            self.on_trial_result(tune_controller, last, state.last_result)

    def _checkpoint_or_exploit(
        self, trial: Any, tune_controller: Any, upper_quantile: list[Any], lower_quantile: list[Any]
    ) -> None:
        """Keep one of the best trials, or let one of the worst copy a best one of its own method.

        If no best trial has its method, the trial is not changed.
        """
        if trial in lower_quantile:
            upper_quantile = [
                other for other in upper_quantile if self._method(other) == self._method(trial)
            ]
            lower_quantile = lower_quantile if upper_quantile else []
        super()._checkpoint_or_exploit(trial, tune_controller, upper_quantile, lower_quantile)

    def _method(self, trial: Any) -> Any:
        """Return the method of a trial; None if one method alone is searched."""
        return self.searcher.record(trial).settings.get("method.name")

    def _get_new_config(
        self, trial: Any, trial_to_clone: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the donor's settings, varied, for the taker; update records and listeners."""
        epoch = int(self._trial_state[trial].last_train_time)
        taker, donor = trial.config["number"], trial_to_clone.config["number"]
        seed = f"{self.searcher.configuration.seed} {taker} {epoch}"
        vary = partial(explore, resample_probability=self._resample_probability, seed=seed)
        return self.searcher.take_over(taker, donor, epoch, vary), {}


class _PopulationController:
    """Tune's controller without the trials that have left the population."""

    def __init__(self, controller: Any, present: Mapping[Any, Any]) -> None:
        self.controller, self.present = controller, present

    def __getattr__(self, name: str) -> Any:
        return getattr(self.controller, name)

    def get_trials(self) -> list[Any]:
        """Return the trials that are still in the population."""
        return [trial for trial in self.controller.get_trials() if trial in self.present]

    get_live_trials = get_trials
