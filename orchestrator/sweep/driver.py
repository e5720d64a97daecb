"""Run a sweep or a single training in the driver, from its record in the store to its end.

Order: Ray starts, the worker groups start, the teacher is acquired, the trials run. MLflow is
written by a process of its own meanwhile.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import list_methods
from orchestrator.config.trial import Folders, TrialSpec
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
from orchestrator.sweep._backends import SharedGroups, open_own_groups, use_shared_groups
from orchestrator.sweep._teacher_warnings import report_teachers, worse_than_student
from orchestrator.sweep.checkpoint_retention import remove_losers
from orchestrator.sweep.events import Events, RunDisplay, StepDisplay
from orchestrator.sweep.run_facts import RunFacts, find_facts
from orchestrator.teacher.access import TeacherAccess
from orchestrator.teacher.acquire import TrialDispatcher, acquire_teachers
from orchestrator.teacher.quality import keep_cards

MLFLOW_S = 10.0  # for unsent records, after an interruption


def run_sweep(
    sweep: Sweep,
    store: Store,
    data: Path,
    teacher_access: TeacherAccess | None,
    display: RunDisplay,
    local_processes: int = 0,
    resume: bool = False,
    shared_groups: SharedGroups | None = None,
    facts: RunFacts | None = None,
) -> None:
    """Run a sweep to its end on prepared data.

    Afterwards `sweep.state` is finished, failed or interrupted.

    Args:
        data: Folder of the prepared data.
        teacher_access: Source of the teacher's outputs and its cache; None without a teacher.
        display: Display of the run.
        local_processes: Number of processes that train without Ray, 1 for this one; 0 with Ray.
        resume: Reconcile the records first. If the sweep has finished, send them to MLflow.
        shared_groups: Worker groups of the caller; without them the sweep starts its own.
        facts: Facts of the run; None: they are found here, which imports torch.

    Raises:
        PreflightError: No worker can train now. The sweep is interrupted and can be resumed.
        TrialError: A single training failed.
        KeyboardInterrupt: A signal arrived after the last trial had ended. The sweep keeps its
            final state.
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
            flush_tracking(sweep, store, data, display)
        else:
            _run_trials_and_track(
                sweep,
                store,
                data,
                teacher_access,
                display,
                local_processes,
                resume,
                shared_groups,
                facts or find_facts(store, sweep.configuration, sweep.kind, data),
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
    return (
        sweep.state in ("finished", "failed")
        and len(sweep.trials) >= sweep.num_trials
        and all(t.ended for t in sweep.trials.values())
    )


def flush_tracking(sweep: Sweep, store: Store, data: Path, display: RunDisplay) -> None:
    """Send the missing records of a finished sweep to MLflow."""
    from orchestrator.tracking.tracker import Tracker

    tracker, state = Tracker(store, sweep, read_summary(data).classes), sweep.state
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
    local_processes: int,
    resume: bool,
    shared_groups: SharedGroups | None,
    facts: RunFacts,
) -> None:
    from orchestrator.tracking.tracker import Tracker

    started = time.monotonic()
    sweep.state = "running"
    sweep.save()
    tracker = Tracker(store, sweep, read_summary(data).classes)
    events = Events(sweep, [tracker, display])
    tracker.listen(events.note, events.note_pending, events.clear_pending_notes)
    state, interrupted = "", False
    try:
        _show_run(sweep, data, display, events, explained=bool(shared_groups))
        opened = (
            use_shared_groups(shared_groups, sweep)
            if shared_groups
            else open_own_groups(
                store, sweep, local_processes, display, events.note, facts.influence_actors
            )
        )
        with report_waits(events.note), stoppable(), opened as dispatcher:
            if sweep.kind == "sweep" and not local_processes:
                threading.Thread(target=_import_tune, name="import", daemon=True).start()
            folders = _prepare_folders(
                sweep, store, data, teacher_access, facts, dispatcher[0], display, events, tracker
            )
            ended = _train_trials(
                sweep, store, dispatcher, events, folders, local_processes, resume, started
            )
            result = "finished" if sweep.ranked() and not ended else "failed"
            if facts.uses_teacher and (warning := worse_than_student(sweep, data)):
                events.note(warning)
            if sweep.count_ended() == len(sweep.trials):
                state = result  # whatever happens while Ray ends
                tracker.end(state)  # MLflow receives the best student while Ray ends
        state = result
    except KeyboardInterrupt:
        interrupted = True
        if state:
            raise
        state = "interrupted"
    except PreflightError as error:
        # the trials are intact: they resume once the cluster or this machine can train
        state, interrupted = state or "interrupted", True
        Events(sweep, []).note(str(error))  # the record alone: the caller shows the error
        raise
    finally:
        state = state or "failed"
        _record_end(sweep, store, events, state, time.monotonic() - started)
        tracker.close(state, signals.remaining_timeout(MLFLOW_S) if interrupted else None)


def _show_run(
    sweep: Sweep, data: Path, display: RunDisplay, events: Events, explained: bool
) -> None:
    """Show what is trained, and note that MLflow is out of reach.

    The data are explained once: not if they are `explained`.
    """
    from orchestrator.tracking.health import find_unreachable

    configuration = sweep.configuration
    methods = ", ".join(list_methods(configuration, sweep.kind))
    display.preparing(
        f"{sweep.name}: {sweep.num_trials} x {configuration.training.epochs} epochs of {methods} "
        f"on {configuration.data.name}"
    )
    if not explained:
        explain_data(configuration, data, display)
    if unreachable := find_unreachable(configuration.tracking.uri):
        events.note_pending(unreachable)


def _train_trials(
    sweep: Sweep,
    store: Store,
    dispatcher: SharedGroups,
    events: Events,
    folders: Folders,
    local_processes: int,
    resume: bool,
    started: float,
) -> str:
    """Train all trials; return why the sweep ended before its last one, or ""."""
    dispatcher_client, concurrency = dispatcher
    if sweep.kind == "train":
        _train_single(sweep, dispatcher_client, events, folders)
        return ""
    if local_processes:
        from orchestrator.sweep._local_runner import run_local_trials

        ended = run_local_trials(
            store, sweep, dispatcher_client, events, folders, local_processes, resume, started
        )
    else:
        from orchestrator.sweep._tune_runner import run_trials

        ended = run_trials(
            store, sweep, dispatcher_client, events, folders, concurrency, resume, started
        )
    if ended:
        events.note(f"the sweep ended before its last trial: {ended}")
    return ended


def _import_tune() -> None:
    """Import Ray Tune, which takes a second, while the first worker group starts.

    The main thread imports it again and raises an error.
    """
    with contextlib.suppress(ImportError):
        import orchestrator.sweep._tune_runner  # noqa: F401


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


def _prepare_folders(
    sweep: Sweep,
    store: Store,
    data: Path,
    teacher_access: TeacherAccess | None,
    facts: RunFacts,
    dispatcher_client: TrialDispatcher,
    display: RunDisplay,
    events: Events,
    tracker: Any,
) -> Folders:
    """Acquire the teachers, if there are any, and return the folders that every trial reads."""
    trials = sweep.folder / "trials"
    tracker.begin()  # the worker groups start one after the other, so that a core is free
    if teacher_access is None:
        return store.folders(trials, data)
    display.preparing("preparing the teacher")
    teachers = acquire_teachers(
        store, sweep.configuration, data, dispatcher_client, display.teacher_epoch, facts.teachers
    )
    cards = [teacher.card for teacher in teachers]
    keep_cards(sweep.folder, cards)
    report_teachers(cards, data, display.teacher_ready, events.note)
    subject = "the teacher is" if len(teachers) == 1 else "the teachers are"
    display.preparing(f"{subject} {teacher_access.words}")
    seconds = sum(teacher.seconds for teacher in teachers)
    tracker.teachers_ready([card["metrics"] for card in cards], seconds, teacher_access.words)
    folders = [teacher.folder for teacher in teachers]
    return store.folders(trials, data, folders, teacher_access.folder)


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
