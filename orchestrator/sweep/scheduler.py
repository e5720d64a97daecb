"""Which trials are stopped early: ASHA over our own `epoch`. A resumed sweep plays its finished epochs back into the rungs."""

from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from orchestrator.config import Configuration
from orchestrator.sweep.records import Sweep, Trial


def scheduler(configuration: Configuration, sweep: Sweep) -> TrialScheduler:
    """The scheduler of the configuration, knowing what the sweep has seen."""
    search = configuration.search
    if search.scheduler == "none":
        return FIFOScheduler()
    made = ASHAScheduler(
        time_attr="epoch",
        metric=search.objective,
        mode=search.direction[:3],
        max_t=configuration.training.epochs,
        grace_period=search.grace_epochs,
        reduction_factor=search.reduction_factor,
    )
    for trial in sweep.trials.values():
        _replay(made, trial)
    return made


class _Past:
    """A trial of an earlier run, as far as a rung asks."""

    def __init__(self, number: int) -> None:
        self.trial_id = f"past-{number}"


def _replay(asha: ASHAScheduler, trial: Trial) -> None:
    past: Any = _Past(trial.number)
    if trial.state == "failed":
        return
    asha.on_trial_add(None, past)
    for epoch, value in enumerate(trial.history, start=1):
        asha.on_trial_result(None, past, {"epoch": epoch, asha.metric: value})
    asha.on_trial_remove(None, past)
