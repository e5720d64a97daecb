"""Run the trials of a sweep with Ray Tune, each through a proxy that waits for a worker group."""

import contextlib
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ray import get_runtime_context, tune

from orchestrator.config.objectives import primary_goal
from orchestrator.config.schema import PAUSING, Configuration
from orchestrator.config.trial import Folders, TrialSpec
from orchestrator.core.errors import PreflightError
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._early_stopping import list_decision_epochs
from orchestrator.sweep._remaining_trials import open_remaining_trials
from orchestrator.sweep._scheduler import build_scheduler
from orchestrator.sweep._stopper import SweepStopper
from orchestrator.sweep._synchronous import SynchronousSearch, remove_snapshots
from orchestrator.sweep._trainable import ProxyTrainable
from orchestrator.sweep._tune_messages import SharedSettings
from orchestrator.sweep._tune_search import StudySearch
from orchestrator.sweep.events import Events

TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # our records and MLflow hold everything
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no objective
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # a resume reads the study and the records
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # the searcher limits how many train at a time
}
BUFFER = "TUNE_RESULT_BUFFER_LENGTH"  # above 1 Tune calls `ProxyTrainable.train_buffered`
NODE = "ray.io/node-id"
# Tune requires a resource. It refuses CPU 0, and a CPU held by a waiting proxy is a deadlock.
PROXY_RESOURCES = {"memory": 50 * 2**20}


def run_trials(
    store: Store,
    sweep: Sweep,
    dispatcher_client: Any,
    events: Events,
    folders: Folders,
    concurrency: Callable[[], int],
    resume: bool,
    started: float,
) -> str:
    """Train the remaining trials of a sweep.

    Args:
        dispatcher_client: Dispatcher client.
        folders: Folders that every trial reads.
        concurrency: Returns the number of concurrent trials.
        resume: Open the existing study.
        started: Start of the time budget (s, monotonic).

    Returns:
        The reason of an early end; empty if there is none.

    Raises:
        PreflightError: No worker can train the trials now.
    """
    configuration = sweep.configuration
    remaining = open_remaining_trials(store, sweep, dispatcher_client, events, resume)
    if remaining.count <= 0:
        return ""
    study, unfinished, events = remaining.study, remaining.unfinished, remaining.events
    synchronous = configuration.search.scheduler in PAUSING
    searcher = (
        SynchronousSearch(study, configuration, events, unfinished, remaining.count)
        if synchronous
        else StudySearch(
            study,
            configuration,
            events,
            unfinished,
            concurrency,
            partial(_submit, dispatcher_client, folders),
        )
    )
    stopper = SweepStopper(remaining.failures)
    num_trials = remaining.count + synchronous  # never drawn: see SynchronousSearch
    _tune(sweep, dispatcher_client, folders, searcher, stopper, num_trials, concurrency, started)
    if stopper.unfit:
        raise PreflightError(f"{stopper.unfit}").with_details("trial", stopper.unfit)
    if remaining.failures.reason:
        return remaining.failures.reason
    searcher.limit_time()
    if synchronous:
        remove_snapshots(sweep)
    return ""


def _submit(
    dispatcher_client: Any, folders: Folders, trial: Trial, configuration: Configuration
) -> str:
    """Submit a trial before its proxy starts, which takes seconds; return the token.

    Return "" if the dispatcher does not answer. The proxy then submits the trial.
    """
    spec = TrialSpec.numbered(trial.number, configuration, folders, known=trial.epochs)
    with contextlib.suppress(PreflightError):
        return str(dispatcher_client.submit_for_reader(spec))
    return ""


def _tune(
    sweep: Sweep,
    dispatcher_client: Any,
    folders: Folders,
    searcher: StudySearch,
    stopper: SweepStopper,
    trials: int,
    concurrency: Callable[[], int],
    started: float,
) -> None:
    """Run Tune until `trials` trials have ended, or `stopper` stops the run."""
    configuration = sweep.configuration
    budget = configuration.search.time_budget
    objective = primary_goal(configuration.search).name
    shared = SharedSettings(
        dispatcher_client.name,
        folders,
        objective,
        configuration.resources.heartbeat_timeout_s,
        list_decision_epochs(configuration),
    )
    os.environ.update(TUNE)
    if configuration.search.scheduler in PAUSING:
        os.environ.pop(BUFFER, None)  # Ray's Hyperband refuses several results at a time
    else:
        os.environ[BUFFER] = "1000"
    # a proxy runs on the driver's node: the loss of another node would fail its trial
    proxy_resources = tune.PlacementGroupFactory(
        [PROXY_RESOURCES], bundle_label_selector=[{NODE: get_runtime_context().get_node_id()}]
    )
    tune.run(  # not a Tuner, which cannot build its results while a trial has not started
        tune.with_resources(tune.with_parameters(ProxyTrainable, shared=shared), proxy_resources),
        name="tune",
        storage_path=str(sweep.folder),
        verbose=0,
        num_samples=trials,
        # deaths of a proxy; a failure of the trial itself is a result
        max_failures=configuration.resources.max_failures,
        reuse_actors=True,
        raise_on_failed_trial=False,
        stop=stopper,
        search_alg=searcher,
        scheduler=build_scheduler(searcher, sweep, concurrency),
        time_budget_s=max(budget - (time.monotonic() - started), 1.0) if budget else None,
        trial_dirname_creator=_folder_name,
        # workers write checkpoints
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
    )


def _folder_name(trial: Any) -> str:
    return f"{trial.config['number']:05d}"
