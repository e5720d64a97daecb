"""Which trials are stopped early: ASHA over our own `epoch`. A resumed sweep plays its finished epochs back into the rungs."""

from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from orchestrator.config import Configuration
from orchestrator.records import Sweep, Trial
from orchestrator.sweep.space import points


def scheduler(configuration: Configuration, sweep: Sweep) -> TrialScheduler:
    """The scheduler of the configuration, knowing what the sweep has seen."""
    search = configuration.search
    if search.scheduler == "none":
        return FIFOScheduler()
    return _RememberingASHA(
        len(points(configuration)) if search.finish_points else 0,
        [trial for trial in sweep.trials.values() if trial.state != "failed"],
        time_attr="epoch",
        metric=search.objective,
        mode=search.direction[:3],
        max_t=configuration.training.epochs,
        grace_period=search.grace_epochs,
        reduction_factor=search.reduction_factor,
    )


class _RememberingASHA(ASHAScheduler):
    """Knows the rungs of an earlier run: ended trials at once, the others under their new id as soon as they go on.

    The first `spared` trials are recorded like any other and never stopped: a baseline that was cut off is none.
    """

    def __init__(self, spared: int, past: list[Trial], **settings: Any) -> None:
        super().__init__(**settings)
        self.spared = spared
        self.unfinished = {trial.number: trial for trial in past if not trial.ended}
        for trial in past:
            if trial.ended:
                ended: Any = SimpleNamespace(trial_id=f"past-{trial.number}", config={"number": trial.number})
                super().on_trial_add(None, ended)
                self._replay(ended, trial)
                self.on_trial_remove(None, ended)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A new trial, or one that goes on."""
        super().on_trial_add(tune_controller, trial)
        begun = self.unfinished.pop(trial.config["number"], None)
        if begun:
            self._replay(trial, begun)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        decision = str(super().on_trial_result(tune_controller, trial, result))
        return TrialScheduler.CONTINUE if trial.config["number"] < self.spared else decision

    def _replay(self, as_trial: Any, trial: Trial) -> None:
        for epoch, value in enumerate(trial.history, start=1):
            self.on_trial_result(None, as_trial, {"epoch": epoch, self.metric: value})
