"""Stop trials early: ASHA and the median rule over our own `epoch`, also after a resume.

A resumed sweep replays its finished epochs into the rungs of ASHA and into the averages of the
median rule.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import list_initial_points
from orchestrator.store.records import Sweep, Trial
from orchestrator.sweep._hyperband import HyperbandBrackets
from orchestrator.sweep._pbt import PbtScheduler
from orchestrator.sweep._study import StudySearch, objective
from orchestrator.sweep._synchronous import SynchronousSearch

MEDIAN_OF = 3  # a median of fewer averages does not justify stopping a trial


def build_scheduler(
    searcher: StudySearch, sweep: Sweep, concurrency: Callable[[], int]
) -> TrialScheduler:
    """Return the scheduler of the configuration, with the history of the sweep.

    Args:
        concurrency: Returns the number of concurrent trials.
    """
    if isinstance(searcher, SynchronousSearch):
        if searcher.configuration.search.scheduler == "pbt":
            return PbtScheduler(searcher, concurrency)
        return HyperbandBrackets(searcher, concurrency)
    return build_independent_scheduler(searcher.configuration, sweep)


def build_independent_scheduler(configuration: Configuration, sweep: Sweep) -> TrialScheduler:
    """Return a scheduler without waiting trials: asha, median or none."""
    search = configuration.search
    if search.scheduler == "none":
        return FIFOScheduler()
    protected = len(list_initial_points(configuration)) if search.protect_initial_trials else 0
    earlier_trials = [trial for trial in sweep.trials.values() if trial.state != "failed"]
    common_settings: dict[str, Any] = {"time_attr": "epoch", **objective(search)}
    if search.scheduler == "median":
        return ResumableMedian(
            protected,
            earlier_trials,
            grace_period=search.grace_epochs,
            min_samples_required=MEDIAN_OF,
            **common_settings,
        )
    return ResumableASHA(
        protected,
        earlier_trials,
        max_t=configuration.training.epochs,
        grace_period=search.grace_epochs,
        reduction_factor=search.reduction_factor,
        **common_settings,
    )


def list_decision_epochs(configuration: Configuration) -> tuple[int, ...]:
    """Return the epochs of ASHA's rungs before the last epoch; none for the other schedulers.

    The median rule decides after every epoch.
    """
    search, epochs = configuration.search, list[int]()
    rung = search.grace_epochs
    while search.scheduler == "asha" and rung < configuration.training.epochs:
        epochs.append(rung)
        rung *= search.reduction_factor
    return tuple(epochs)


class ResumableASHA(ASHAScheduler):
    """ASHA with the rungs of an earlier run.

    Ended trials enter their rungs at once, the others under their new id as soon as they resume.
    The first `protected` trials are recorded like any other but never stopped, because they serve
    as baselines.
    """

    def __init__(self, protected: int, earlier_trials: list[Trial], **settings: Any) -> None:
        super().__init__(**settings)
        self.protected = protected
        self.unfinished = {trial.number: trial for trial in earlier_trials if not trial.ended}
        for trial in earlier_trials:
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
        resumed = self.unfinished.pop(trial.config["number"], None)
        if resumed:
            self._replay(trial, resumed)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether the trial continues."""
        decision = str(super().on_trial_result(tune_controller, trial, result))
        return TrialScheduler.CONTINUE if trial.config["number"] < self.protected else decision

    def _replay(self, as_trial: Any, trial: Trial) -> None:
        for epoch, value in trial.known:
            self.on_trial_result(None, as_trial, {"epoch": epoch, self.metric: value})


class ResumableMedian(MedianStoppingRule):
    """Median rule with the epochs of an earlier run.

    It stops a trial whose best value is worse than the median of the other trials' averages. Ray's
    rule would fail at the end of a failed trial, which has no epoch. It would also count the last
    epoch of an ended trial twice.
    """

    def __init__(self, protected: int, earlier_trials: list[Trial], **settings: Any) -> None:
        super().__init__(**settings)
        self.protected = protected
        self.unfinished = {trial.number: trial for trial in earlier_trials if not trial.ended}
        for trial in earlier_trials:
            if trial.ended and trial.known:
                self._results[f"past-{trial.number}"] = self._history(trial)

    def _history(self, trial: Trial) -> list[dict[str, Any]]:
        return [{"epoch": epoch, self._metric: value} for epoch, value in trial.known]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a new trial, or one that resumes."""
        super().on_trial_add(tune_controller, trial)
        resumed = self.unfinished.pop(trial.config["number"], None)
        if resumed and resumed.known:
            self._results[trial] = self._history(resumed)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Return whether the trial continues; a repeated epoch decides nothing."""
        if not self._is_new_epoch(trial, result):
            return str(TrialScheduler.CONTINUE)
        decision = str(super().on_trial_result(tune_controller, trial, result))
        if trial.config["number"] < self.protected:
            self._stopped_trials.discard(trial)
            return str(TrialScheduler.CONTINUE)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Count the last epoch once, and a result without an epoch not at all."""
        if self._is_new_epoch(trial, result):
            super().on_trial_complete(tune_controller, trial, result)

    def _is_new_epoch(self, trial: Any, result: dict[str, Any]) -> bool:
        known = self._results[trial][-1]["epoch"] if self._results.get(trial) else 0
        return self._metric in result and result.get("epoch", 0) > known

    def _on_insufficient_samples(self, tune_controller: Any, trial: Any, time: float) -> str:
        # Ray would pause it for another trial; here each has its own group
        return str(TrialScheduler.CONTINUE)
