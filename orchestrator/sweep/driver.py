"""Run a sweep or a single training in the driver, from its record in the store to its end.

Order: Ray starts, the worker groups start, the teacher is acquired, the trials run. MLflow writes
in its own thread meanwhile.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.config.influence_actors import count_influence_actors
from orchestrator.config.plan import plan_groups
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import searched_methods
from orchestrator.config.trial import Folders, TrialSpec, trial_name
from orchestrator.core import signals
from orchestrator.core.disk import report_waits
from orchestrator.core.errors import PreflightError, TrialError
from orchestrator.core.reports import EpochRecord, TrialFailure
from orchestrator.core.signals import stoppable
from orchestrator.data.dataset import read_summary
from orchestrator.data.preprocessing import explain
from orchestrator.store.checkpoint_storage import LIGHT, checkpoint_storage
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._teacher_warnings import report_teacher, worse_than_student
from orchestrator.sweep.checkpoint_retention import remove_losers
from orchestrator.sweep.events import Events, Listener
from orchestrator.teacher.access import TeacherAccess
from orchestrator.teacher.acquire import TrialDispatcher, acquire_teacher
from orchestrator.teacher.card import CARD, TEACHER

if TYPE_CHECKING:
    from orchestrator.cluster.local_backend import LocalBackend
    from orchestrator.tracking.model_registry import ExportProgram

LOCAL_S = 8.0  # for the steps in progress in local processes
MLFLOW_S = 10.0  # for unsent records, after an interruption
# a dispatcher client, and a function that returns the number of concurrent trials
SharedGroups = tuple[Any, Callable[[], int]]


class StepDisplay(Protocol):
    """Display of the steps before the first trial."""

    def preparing(self, what: str) -> None:
        """Show that a step before the first trial starts."""

    def teacher_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Show the metrics of an epoch of the teacher's training."""

    def teacher_ready(self, words: str) -> None:
        """Show in one line which teacher is used and how good it is."""

    def note(self, text: str) -> None:
        """Show a message about the whole run; may be called from any thread."""


class RunDisplay(Listener, StepDisplay, Protocol):
    """Display of a run."""


def run_sweep(
    sweep: Sweep,
    store: Store,
    data: Path,
    teacher_access: TeacherAccess | None,
    display: RunDisplay,
    local: int = 0,
    resume: bool = False,
    shared_groups: SharedGroups | None = None,
    ship: "ExportProgram | None" = None,
) -> None:
    """Run a sweep to its end on prepared data.

    Afterwards `sweep.state` is finished, failed or interrupted.

    Args:
        data: Folder of the prepared data.
        teacher_access: Source of the teacher's outputs and its cache; None without a teacher.
        display: Display of the run.
        local: Number of processes that train without Ray, 1 for this one; 0 with Ray.
        resume: Reconcile the records first. If the sweep has finished, send them to MLflow.
        shared_groups: Worker groups of the caller; without them the sweep starts its own.
        ship: Exports a student, so that the best one can be registered in MLflow.

    Raises:
        PreflightError: No worker can train now. The sweep is interrupted and can be resumed.
        TrialError: A single training failed.
    """
    with (
        stoppable(),
        sweep.hold(),
        signals.before_exit(partial(_record_exit, sweep)),
        report_waits(display.note),
    ):
        if resume:
            repair_records(store, sweep, Events(sweep, [display]).note)
        if resume and is_finished(sweep):
            if sweep.ranked():  # its driver failed after the last trial had ended
                sweep.state = "finished"
                sweep.save()
            flush_tracking(sweep, store, data, display, ship)
        else:
            _run_trials_and_track(
                sweep, store, data, teacher_access, display, local, resume, shared_groups, ship
            )


def _record_exit(sweep: Sweep) -> None:
    """Record that the sweep has stopped, before the process exits."""
    for trial in sweep.trials.values():
        if trial.state == "running":
            trial.state = "waiting"
            sweep.save_trial(trial)
    if sweep.state == "running":
        sweep.state = "interrupted"
        sweep.save()


def repair_records(store: Store, sweep: Sweep, note: Callable[[str], None]) -> None:
    """Set damaged records aside and rebuild them, before anything starts.

    The caller must hold the sweep's lock, so that no other process runs it. `note` receives a
    message for each record.
    """
    from orchestrator.sweep._reconcile import reconcile
    from orchestrator.sweep._study import open_study

    def fetch(trial: Path) -> None:
        with contextlib.suppress(OSError):
            checkpoint_storage(store, trial).download(LIGHT)

    if sweep.kind == "sweep":
        messages = reconcile(
            open_study(sweep.folder, sweep.configuration, resume=True), sweep, fetch
        )
    else:
        # a training has no study, only its checkpoint
        messages = [sweep.set_aside(file) for file in list(sweep.damaged)]
    if messages:
        sweep.save()
    for text in messages:
        note(text)


def is_finished(sweep: Sweep) -> bool:
    """Return whether the sweep has ended and has no trial left to train.

    Its records may still have to be sent to MLflow.
    """
    trials = _num_trials(sweep)
    return (
        sweep.state in ("finished", "failed")
        and len(sweep.trials) >= trials
        and all(t.ended for t in sweep.trials.values())
    )


def flush_tracking(
    sweep: Sweep, store: Store, data: Path, display: RunDisplay, ship: "ExportProgram | None" = None
) -> None:
    """Send the missing records of a finished sweep to MLflow."""
    from orchestrator.tracking.tracker import Tracker

    tracker, state = Tracker(store, sweep, read_summary(data).classes, ship), sweep.state
    events = Events(sweep, [display])
    tracker.listen(events.note, events.note_pending, events.clear_pending_notes)
    with stoppable():
        tracker.close(state)


def _run_trials_and_track(
    sweep: Sweep,
    store: Store,
    data: Path,
    teacher_access: TeacherAccess | None,
    display: RunDisplay,
    local: int,
    resume: bool,
    shared_groups: SharedGroups | None,
    ship: "ExportProgram | None",
) -> None:
    from orchestrator.tracking.health import find_unreachable
    from orchestrator.tracking.tracker import Tracker

    started = time.monotonic()
    sweep.state = "running"
    sweep.save()
    tracker = Tracker(store, sweep, read_summary(data).classes, ship)
    events = Events(sweep, [tracker, display])
    tracker.listen(events.note, events.note_pending, events.clear_pending_notes)
    state = "failed"
    try:
        display.preparing(_describe_run(sweep))
        if not shared_groups:
            explain_data(sweep.configuration, data, display)
        if unreachable := find_unreachable(sweep.configuration.tracking.uri):
            events.note_pending(unreachable)
        dispatcher = (
            _use_shared_groups(shared_groups, sweep)
            if shared_groups
            else _open_own_groups(store, sweep, local, display, events.note)
        )
        ended = ""
        with report_waits(events.note), stoppable(), dispatcher as (dispatcher_client, concurrency):
            if sweep.kind == "sweep" and not local:
                threading.Thread(target=_import_tune, name="import", daemon=True).start()
            folders = _prepare_folders(
                sweep, store, data, teacher_access, dispatcher_client, display, events, tracker
            )
            if sweep.kind == "train":
                _train_single(sweep, dispatcher_client, events, folders)
            elif local:
                from orchestrator.sweep._local_runner import run_local_trials

                ended = run_local_trials(
                    store, sweep, dispatcher_client, events, folders, local, resume, started
                )
            else:
                from orchestrator.sweep._tune_runner import run_trials

                ended = run_trials(
                    store, sweep, dispatcher_client, events, folders, concurrency, resume, started
                )
            if ended:
                events.note(f"the sweep ended before its last trial: {ended}")
            result = "finished" if sweep.ranked() and not ended else "failed"
            if warning := worse_than_student(sweep, data):
                events.note(warning)
            if all(trial.ended for trial in sweep.trials.values()):
                tracker.end(result)  # MLflow receives the best student while Ray ends
        state = result
    except KeyboardInterrupt:
        state = "interrupted"
    except PreflightError as error:
        # the trials are intact: they resume once the cluster or this machine can train
        state = "interrupted"
        Events(sweep, []).note(str(error))  # the record alone: the caller shows the error
        raise
    finally:
        _record_end(sweep, store, events, state, time.monotonic() - started)
        tracker.close(
            state, signals.remaining_timeout(MLFLOW_S) if state == "interrupted" else None
        )


def _import_tune() -> None:
    """Import Ray Tune, which takes a second, while the first worker group starts."""
    import orchestrator.sweep._tune_runner  # noqa: F401


def _num_trials(sweep: Sweep) -> int:
    return 1 if sweep.kind == "train" else sweep.configuration.search.trials


def _describe_run(sweep: Sweep) -> str:
    """Describe trials, epochs, methods and data in one line."""
    configuration = sweep.configuration
    if sweep.kind == "sweep":
        methods = ", ".join(searched_methods(configuration))
    else:
        methods = configuration.method.name
    return (
        f"{sweep.name}: {_num_trials(sweep)} x {configuration.training.epochs} epochs of {methods} "
        f"on {configuration.data.name}"
    )


def _open_own_groups(
    store: Store, sweep: Sweep, local: int, display: StepDisplay, note: Callable[[str], None]
) -> contextlib.AbstractContextManager[SharedGroups]:
    """Open worker groups for the trials of one sweep or training."""
    trials = _num_trials(sweep)
    return open_dispatcher(
        store,
        sweep.configuration,
        sweep.folder / "groups",
        trials,
        local,
        display,
        note,
        partial(_count_unfinished, sweep, trials),
        count_influence_actors(sweep.configuration, sweep.kind),
    )


def explain_data(configuration: Configuration, data: Path, display: StepDisplay) -> None:
    """Show which augmentation and normalisation apply to the prepared data, and why."""
    for title, line in explain(configuration.data, read_summary(data)).items():
        display.note(f"{title}: {line}")


def _record_end(sweep: Sweep, store: Store, events: Events, state: str, seconds: float) -> None:
    """Record how the sweep ended, and add the duration (s) of this run."""
    for trial in sweep.trials.values():
        if not trial.ended:
            events.end(trial, "waiting")
        elif not sweep.saved(trial):
            # the run may have ended between writing the study and the record
            sweep.save_trial(trial)
    if sweep.kind == "sweep":
        remove_losers(store, sweep)
    sweep.state, sweep.seconds = state, sweep.seconds + seconds
    sweep.save()


def _count_unfinished(sweep: Sweep, trials: int) -> int:
    """Return the number of trials that have not ended."""
    return trials - sum(trial.ended for trial in list(sweep.trials.values()))


@contextlib.contextmanager
def _use_shared_groups(shared_groups: SharedGroups, sweep: Sweep) -> Iterator[SharedGroups]:
    """Yield shared worker groups; after a normal exit none trains a trial of this sweep."""
    yield shared_groups
    dispatcher_client = shared_groups[0]
    heartbeat_timeout_s = sweep.configuration.resources.heartbeat_timeout_s
    for number in sweep.trials:
        dispatcher_client.stop(trial_name(number))
    for number in sweep.trials:
        dispatcher_client.wait_until_released(trial_name(number), heartbeat_timeout_s)


@contextlib.contextmanager
def open_dispatcher(
    store: Store,
    configuration: Configuration,
    folder: Path,
    trials: int,
    local: int,
    display: StepDisplay,
    note: Callable[[str], None],
    count_unfinished: Callable[[], int],
    num_influence_actors: int = 0,
) -> Iterator[SharedGroups]:
    """Yield a dispatcher client and a function that returns the number of concurrent trials.

    Use it within `stoppable`.

    Args:
        local: Number of processes that train without Ray, 1 for this one; 0 with Ray.
        note: Receives warnings, from any thread.
        count_unfinished: Returns the number of trials still to train.
        num_influence_actors: Influence actors in each group.
    """
    if local:
        processes = min(local, max(count_unfinished(), 1))
        backend = _open_local_backend(configuration, processes, display, note)
        try:
            yield backend, lambda: local
        finally:
            backend.close(signals.remaining_timeout(LOCAL_S))
        return
    display.preparing("starting Ray")  # the imports of its libraries take a second
    from orchestrator.cluster.connect import connect_to_ray, free_nodes, list_nodes
    from orchestrator.cluster.descendants import end_leftover_processes, record_descendants
    from orchestrator.cluster.group_autoscaler import ScalingPolicy
    from orchestrator.cluster.groups import worker_groups
    from orchestrator.config.resources import cluster_address
    from orchestrator.sweep._watchdog import watch_trials

    resources = configuration.resources
    if ended := end_leftover_processes(store.root):
        display.preparing(f"ended {len(ended)} processes that a run left behind when it died")
    address = cluster_address(resources)
    with record_descendants(folder), connect_to_ray(address) as available:
        signals.reinstall_handlers()  # Ray has installed its own signal handlers
        plan = plan_groups(
            configuration,
            available,
            trials,
            list_nodes(),
            num_influence_actors,
            free_nodes(),
            elastic=bool(address),
        )
        groups = "group" if plan.groups == 1 else "groups"
        workers = "worker" if plan.workers == 1 else "workers"
        display.preparing(f"starting {plan.groups} worker {groups} of {plan.workers} {workers}")
        policy = ScalingPolicy(
            resources.groups or trials,
            count_unfinished,
            note,
            resources.heartbeat_warning_s,
            resources.heartbeat_timeout_s,
        )
        with (
            worker_groups(
                plan, folder, resources.max_failures, own_cluster=not address, policy=policy
            ) as dispatcher_client,
            watch_trials(dispatcher_client, resources, note),
        ):
            signals.reinstall_handlers()
            yield dispatcher_client, dispatcher_client.max_concurrent_trials


def _open_local_backend(
    configuration: Configuration, processes: int, display: StepDisplay, note: Callable[[str], None]
) -> "LocalBackend":
    """Return a backend that trains in this process, or in several others."""
    if processes == 1:
        from orchestrator.cluster.local_backend import LocalDispatcher

        return LocalDispatcher(note)
    from orchestrator.cluster.local_pool import LocalPool

    display.preparing(f"starting {processes} processes")
    return LocalPool(processes, configuration.resources, note)


def _prepare_folders(
    sweep: Sweep,
    store: Store,
    data: Path,
    teacher_access: TeacherAccess | None,
    dispatcher_client: TrialDispatcher,
    display: RunDisplay,
    events: Events,
    tracker: Any,
) -> Folders:
    """Acquire the teacher, if there is one, and return the folders that every trial reads."""
    trials = sweep.folder / "trials"
    if sweep.configuration.teacher:
        display.preparing("preparing the teacher")
        folder, card, seconds = acquire_teacher(
            store, sweep.configuration, data, dispatcher_client, display.teacher_epoch
        )
        assert teacher_access is not None
        TEACHER.keep(sweep.folder / CARD, card)
        report_teacher(card, data, display.teacher_ready, events.note)
        display.preparing(f"the teacher is {teacher_access.words}")
        tracker.teacher_ready(card["metrics"], seconds, teacher_access.words)
        return store.folders(trials, data, folder, teacher_access.folder)
    return store.folders(trials, data)


def _train_single(
    sweep: Sweep, dispatcher_client: TrialDispatcher, events: Events, folders: Folders
) -> None:
    trial = sweep.trials.get(0) or Trial(0, {})
    if trial.ended:
        return
    specification = TrialSpec.numbered(0, sweep.configuration, folders, known=trial.epochs)
    events.start(trial)
    dispatcher_client.submit(specification)
    while not trial.ended:
        report = dispatcher_client.next_report(
            specification.name, sweep.configuration.resources.heartbeat_timeout_s
        )
        if isinstance(report, TrialFailure):
            events.end(trial, "failed", report.message)
            raise TrialError(report.message).with_details("trial", report.message)
        if isinstance(report, EpochRecord):
            events.report(trial, report)
            if report.done:
                events.end(trial, "complete")
