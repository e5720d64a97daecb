"""Population based training: after every few epochs the poor trials take over from the good ones and vary their settings.

Ray's scheduler decides who takes over from whom; this file varies the settings within the bounds of the study, keeps the
records, and sees to it that neither a failed trial nor the order of reports changes what happens.
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

from orchestrator.sweep._study import objective
from orchestrator.sweep._synchronous import SynchronousSearch, next_to_run

FACTORS = (0.8, 1.2)


def explore(
    settings: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], resample_probability: float, seed: str
) -> dict[str, Any]:
    """Settings near those given: continuous ones are multiplied by 0.8 or 1.2, or drawn anew; all others are inherited.

    Never outside the bounds of the distribution of the same name; the same for the same seed.
    """
    draw = random.Random(seed)
    varied = dict(settings)
    for name, value in settings.items():
        distribution = distributions.get(name)
        if isinstance(distribution, FloatDistribution):
            anew = draw.random() < resample_probability
            varied[name] = _within(distribution, _anew(distribution, draw) if anew else value * draw.choice(FACTORS))
    return varied


def _anew(distribution: FloatDistribution, draw: random.Random) -> float:
    if distribution.log:
        return math.exp(draw.uniform(math.log(distribution.low), math.log(distribution.high)))
    return draw.uniform(distribution.low, distribution.high)


def _within(distribution: FloatDistribution, value: float) -> float:
    if distribution.step:
        value = distribution.low + round((value - distribution.low) / distribution.step) * distribution.step
    return float(min(max(value, distribution.low), distribution.high))


class Population(PopulationBasedTraining):
    """Ray's synchronous PBT over our own `epoch`. All of the population wait until the last of them has trained so far.

    After a resume the next comparison is at the next multiple of `perturb_epochs` above what the slowest unfinished trial has.
    """

    def __init__(self, asking: SynchronousSearch, at_once: Callable[[], int]) -> None:
        search = asking.configuration.search
        super().__init__(
            time_attr="epoch",
            **objective(search),
            perturbation_interval=search.perturb_epochs,
            quantile_fraction=search.quantile,
            resample_probability=search.resample_probability,
            custom_explore_fn=dict,  # Ray wants one; what explores is `_get_new_config`
            log_config=False,
            require_attrs=False,  # a failed trial has none
            synch=True,
        )
        self.asking, self.at_once = asking, at_once
        slowest = min((trial.epochs for trial in asking.unfinished), default=0)
        self._next_perturbation_sync = (slowest // search.perturb_epochs + 1) * search.perturb_epochs

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial joins the population and waits for a group. Ray refuses a searcher here, because it could not change trials."""
        state = self._trial_state[trial] = _PBTTrialState(trial)
        state.last_perturbation_time = self._next_perturbation_sync - self._perturbation_interval
        trial.set_status(TuneTrial.PAUSED)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """A trial that has not trained up to the next comparison, where its worker stops."""
        present = _Present(tune_controller, self._trial_state)
        trial = next_to_run(super().choose_trial_to_run, self.asking, self.at_once, present)
        if trial:
            trial.config["until"] = self._next_perturbation_sync
        return trial

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on or waits; the last one to arrive starts the comparison."""
        before = random.getstate()
        random.seed(f"{self.asking.configuration.seed} {self._next_perturbation_sync}")  # Ray draws the donors from it
        try:
            return str(super().on_trial_result(_Present(tune_controller, self._trial_state), trial, result))
        finally:
            random.setstate(before)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """It has left the population."""
        self._leave(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """It has left the population."""
        self._leave(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """It has left the population."""
        self._leave(tune_controller, trial)

    def _leave(self, tune_controller: Any, trial: Any) -> None:
        """Ray would let the others wait for it for ever: when it was the last one to be waited for, they are compared now."""
        self._trial_state.pop(trial, None)
        times = [state.last_train_time for state in self._trial_state.values()]
        if times and min(times) >= self._next_perturbation_sync:
            last, state = list(self._trial_state.items())[-1]
            self.on_trial_result(tune_controller, last, state.last_result)

    def _checkpoint_or_exploit(
        self, trial: Any, tune_controller: Any, upper_quantile: list[Any], lower_quantile: list[Any]
    ) -> None:
        """One of the best is kept; one of the worst takes over from one of the best of its own method, or stays as it is."""
        if trial in lower_quantile:
            upper_quantile = [other for other in upper_quantile if self._method(other) == self._method(trial)]
            lower_quantile = lower_quantile if upper_quantile else []
        super()._checkpoint_or_exploit(trial, tune_controller, upper_quantile, lower_quantile)

    def _method(self, trial: Any) -> Any:
        """Null where one method alone is searched."""
        return self.asking.record(trial).settings.get("method.name")

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the taker goes on with: the donor's settings, varied. The records and the listeners hear of it."""
        epoch = int(self._trial_state[trial].last_train_time)
        taker, donor = trial.config["number"], trial_to_clone.config["number"]
        seed = f"{self.asking.configuration.seed} {taker} {epoch}"
        vary = partial(explore, resample_probability=self._resample_probability, seed=seed)
        return self.asking.take_over(taker, donor, epoch, vary), {}


class _Present:
    """Tune's controller without the trials that have left the population."""

    def __init__(self, controller: Any, present: Mapping[Any, Any]) -> None:
        self.controller, self.present = controller, present

    def __getattr__(self, name: str) -> Any:
        return getattr(self.controller, name)

    def get_trials(self) -> list[Any]:
        """All that are present."""
        return [trial for trial in self.controller.get_trials() if trial in self.present]

    get_live_trials = get_trials
