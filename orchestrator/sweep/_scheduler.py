"""Stop trials early: ASHA and the median rule over our own `epoch`, with the history of a resume.

A resumed sweep replays its finished epochs into the rungs of ASHA and into the averages of the
median rule.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import points
from orchestrator.store.records import Sweep, Trial
from orchestrator.sweep._hyperband import HyperbandBrackets
from orchestrator.sweep._pbt import Population
from orchestrator.sweep._study import StudySearch, objective
from orchestrator.sweep._synchronous import SynchronousSearch

MEDIAN_OF = 3  # a median of fewer averages is no reason to stop a trial


def scheduler(asking: StudySearch, sweep: Sweep, at_once: Callable[[], int]) -> TrialScheduler:
    """Return the scheduler of the configuration, with the history of the sweep.

    Args:
        at_once: Returns the number of concurrent trials.
    """
    if isinstance(asking, SynchronousSearch):
        return (
            Population(asking, at_once)
            if asking.configuration.search.scheduler == "pbt"
            else HyperbandBrackets(asking, at_once)
        )
    return stopping(asking.configuration, sweep)


def stopping(configuration: Configuration, sweep: Sweep) -> TrialScheduler:
    """Return a scheduler under which no trial waits for others: asha, median or none."""
    search = configuration.search
    if search.scheduler == "none":
        return FIFOScheduler()
    spared = len(points(configuration)) if search.protect_initial_trials else 0
    past = [trial for trial in sweep.trials.values() if trial.state != "failed"]
    common: dict[str, Any] = {"time_attr": "epoch", **objective(search)}
    if search.scheduler == "median":
        return _RememberingMedian(
            spared, past, grace_period=search.grace_epochs, min_samples_required=MEDIAN_OF, **common
        )
    return _RememberingASHA(
        spared,
        past,
        max_t=configuration.training.epochs,
        grace_period=search.grace_epochs,
        reduction_factor=search.reduction_factor,
        **common,
    )


class _RememberingASHA(ASHAScheduler):
    """ASHA with the rungs of an earlier run.

    Ended trials enter their rungs at once, the others under their new id as soon as they resume.
    The first `spared` trials are recorded like any other and never stopped: a baseline that was cut
    off is none.
    """

    def __init__(self, spared: int, past: list[Trial], **settings: Any) -> None:
        super().__init__(**settings)
        self.spared = spared
        self.unfinished = {trial.number: trial for trial in past if not trial.ended}
        for trial in past:
            if trial.ended:
                ended: Any = SimpleNamespace(
                    trial_id=f"past-{trial.number}", config={"number": trial.number}
                )
                super().on_trial_add(None, ended)
                self._replay(ended, trial)
                self.on_trial_remove(None, ended)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a new trial, or one that resumes."""
        super().on_trial_add(tune_controller, trial)
        begun = self.unfinished.pop(trial.config["number"], None)
        if begun:
            self._replay(trial, begun)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether the trial continues."""
        decision = str(super().on_trial_result(tune_controller, trial, result))
        return TrialScheduler.CONTINUE if trial.config["number"] < self.spared else decision

    def _replay(self, as_trial: Any, trial: Trial) -> None:
        for epoch, value in trial.known:
            self.on_trial_result(None, as_trial, {"epoch": epoch, self.metric: value})


class _RememberingMedian(MedianStoppingRule):
    """Median rule with the epochs of an earlier run.

    It stops a trial whose best value is worse than the median of the other trials' averages. Ray's
    rule would fail at the end of a failed trial, which has no epoch. It would also count the last
    epoch of an ended trial twice.
    """

    def __init__(self, spared: int, past: list[Trial], **settings: Any) -> None:
        super().__init__(**settings)
        self.spared = spared
        self.unfinished = {trial.number: trial for trial in past if not trial.ended}
        for trial in past:
            if trial.ended and trial.known:
                self._results[f"past-{trial.number}"] = self._of(trial)

    def _of(self, trial: Trial) -> list[dict[str, Any]]:
        return [{"epoch": epoch, self._metric: value} for epoch, value in trial.known]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a new trial, or one that resumes."""
        super().on_trial_add(tune_controller, trial)
        begun = self.unfinished.pop(trial.config["number"], None)
        if begun and begun.known:
            self._results[trial] = self._of(begun)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether the trial continues; a repeated epoch decides nothing."""
        if not self._news(trial, result):
            return str(TrialScheduler.CONTINUE)
        decision = str(super().on_trial_result(tune_controller, trial, result))
        if trial.config["number"] < self.spared:
            self._stopped_trials.discard(trial)
            return str(TrialScheduler.CONTINUE)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Count the last epoch once, and a result without an epoch not at all."""
        if self._news(trial, result):
            super().on_trial_complete(tune_controller, trial, result)

    def _news(self, trial: Any, result: dict[str, Any]) -> bool:
        known = self._results[trial][-1]["epoch"] if self._results.get(trial) else 0
        return self._metric in result and result.get("epoch", 0) > known

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        # Ray would pause it for another trial; here each has its own group
        return str(TrialScheduler.CONTINUE)
