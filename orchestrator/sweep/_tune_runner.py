"""The trials of a sweep, run by Ray Tune: stand-ins for them wait on the groups that train. Knows no process and no MLflow."""

import os
import time
from collections.abc import Callable
from typing import Any

from ray import get_runtime_context, tune

from orchestrator.config.objectives import watched_metrics
from orchestrator.config.schema import PAUSING
from orchestrator.config.trial import trial_name
from orchestrator.core.errors import PreflightError
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._failures import FailuresInARow
from orchestrator.sweep._reconcile import reconcile
from orchestrator.sweep._scheduler import scheduler
from orchestrator.sweep._stopper import SweepStopper
from orchestrator.sweep._study import StudySearch, open_study
from orchestrator.sweep._synchronous import SynchronousSearch, remove_snapshots
from orchestrator.sweep._trainable import ProxyTrainable
from orchestrator.sweep.checkpoint_retention import RetentionPolicy
from orchestrator.sweep.events import Events
from orchestrator.teacher.acquire import TrialDispatcher

TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our records and MLflow hold everything
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no objective
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # the study and the records are what a resume reads
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # how many train at a time is what the searcher says
}
NODE = "ray.io/node-id"
STAND_IN = {"memory": 50 * 2**20}  # Tune wants a resource; CPU 0 is refused, and a CPU held by who waits is a deadlock


def run_trials(
    store: Store,
    sweep: Sweep,
    desk: Any,
    events: Events,
    folders: dict[str, Any],
    at_once: Callable[[], int],
    resume: bool,
    started: float,
) -> str:
    """All trials that are left; why the search ended before them, if it did.

    `started`: when the time budget began (s, monotonic). PreflightError: nobody can train them for now.
    """
    configuration = sweep.configuration
    study = open_study(sweep.folder, configuration, resume)
    reconcile(study, sweep)
    unfinished = [trial for trial in sweep.trials.values() if not trial.ended]
    missing = configuration.search.trials - len(sweep.trials) + len(unfinished)
    if missing <= 0:
        return ""
    waits = configuration.search.scheduler in PAUSING
    failures = FailuresInARow(configuration.search.max_failed_trials, sweep.trials)
    keeper = RetentionPolicy(store, sweep, lambda number: desk.released(trial_name(number)))
    told = events.and_tell(_Release(desk)).and_tell(keeper).and_tell(failures)
    asking = (
        SynchronousSearch(study, configuration, told, unfinished, missing)
        if waits
        else StudySearch(study, configuration, told, unfinished, at_once)
    )
    ending = SweepStopper(failures)
    asked_for = missing + waits  # that last one is never asked for: see SynchronousSearch
    _tune(sweep, desk, folders, asking, ending, asked_for, at_once, started)
    if ending.unfit:
        raise PreflightError(f"{ending.unfit}", field="trial", value=ending.unfit)
    if failures.reason:
        return failures.reason
    limit_time(asking)
    if waits:
        remove_snapshots(sweep)
    return ""


def _tune(
    sweep: Sweep,
    desk: Any,
    folders: dict[str, Any],
    asking: StudySearch,
    ending: SweepStopper,
    trials: int,
    at_once: Callable[[], int],
    started: float,
) -> None:
    """Run Tune until so many trials have ended, or `ending` says so."""
    configuration = sweep.configuration
    budget = configuration.search.time_budget
    objective = watched_metrics(configuration.search).name
    place = {
        "desk": desk.name,
        "folders": folders,
        "heartbeat_timeout_s": configuration.resources.heartbeat_timeout_s,
        "objective": objective,
    }
    os.environ.update(TUNE)
    # a stand-in ends with the driver, not with some other node: that would fail its trial
    here = tune.PlacementGroupFactory([STAND_IN], bundle_label_selector=[{NODE: get_runtime_context().get_node_id()}])
    tune.run(  # not a Tuner, whose results cannot be made while a trial has not begun
        tune.with_resources(tune.with_parameters(ProxyTrainable, place=place), here),
        name="tune",
        storage_path=str(sweep.folder),
        verbose=0,
        num_samples=trials,
        max_failures=configuration.resources.max_failures,  # deaths of a stand-in: a trial's own failure is a result
        reuse_actors=True,
        raise_on_failed_trial=False,
        stop=ending,
        search_alg=asking,
        scheduler=scheduler(asking, sweep, at_once),
        time_budget_s=max(budget - (time.monotonic() - started), 1.0) if budget else None,
        trial_dirname_creator=_folder_name,
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),  # the workers write their own
    )


def limit_time(asking: StudySearch) -> None:
    """The time budget is spent: what trained is stopped where it is, and what never had its turn waits for a resume."""
    for trial in asking.events.sweep.trials.values():
        if not trial.ended and (trial.epochs or trial.number in asking.events.begun):
            asking.finish(trial, "stopped_early")


def _folder_name(trial: Any) -> str:
    return f"{trial.config['number']:05d}"


class _Release:
    """Frees the worker group of a trial that ended before its training did."""

    def __init__(self, desk: TrialDispatcher) -> None:
        self.desk = desk

    def trial_started(self, trial: Trial) -> None:
        """Its stand-in submits it."""

    def trial_reported(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """It goes on."""

    def trial_changed(self, trial: Trial) -> None:
        """Its group has given it back."""

    def trial_ended(self, trial: Trial) -> None:
        """Nobody wants more of it."""
        self.desk.stop(trial_name(trial.number))

    def note(self, text: str) -> None:
        """Not for the worker groups."""
