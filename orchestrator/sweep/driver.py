"""Runs a sweep, or the one trial of `train`, from its record in the store to its end. The driver's side of everything.

Order: Ray starts, groups start, the teacher is brought, trials run. MLflow writes in its own thread meanwhile.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.config.influence_actors import count_influence_actors
from orchestrator.config.method_variants import build_all_variants
from orchestrator.config.plan import groups
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import searched_methods
from orchestrator.config.trial import TrialSpec, trial_name
from orchestrator.core import signals
from orchestrator.core.disk import report_waits
from orchestrator.core.errors import PreflightError, TrialError
from orchestrator.core.signals import stoppable
from orchestrator.data.dataset import read_summary
from orchestrator.data.prepare import describe
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
from orchestrator.teacher.precompute import Filling, distribute_views, precompute_views, views_to_fill

if TYPE_CHECKING:
    from orchestrator.tracking.model_registry import Ship

LOCAL_S = 8.0  # for the step that this process is at
MLFLOW_S = 10.0  # for what is unsent, after an interruption
Lent = tuple[Any, Callable[[], int]]  # a desk, and how many trials at a time


class Steps(Protocol):
    """What a person sees before the first trial."""

    def preparing(self, what: str) -> None:
        """A step before the first trial begins."""

    def teacher_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """The teacher's fitting goes on."""

    def teacher_ready(self, words: str) -> None:
        """The teacher stands ready: who it is and how good it is, in one line."""

    def note(self, text: str) -> None:
        """What a person should know of the run as a whole; may come from any thread."""


class Show(Listener, Steps, Protocol):
    """What a person sees of a run."""


def run_sweep(
    sweep: Sweep,
    store: Store,
    data: Path,
    asked: TeacherAccess | None,
    show: Show,
    local: bool = False,
    resume: bool = False,
    lent: Lent | None = None,
    ship: "Ship | None" = None,
) -> None:
    """Run to the end on prepared data, the teacher being `asked` as decided; `sweep.state` says how it ended.

    States: finished, failed, interrupted. `lent`: worker groups that somebody else keeps; without them it has its own. `ship`
    exports a student, so that the best one of a sweep can be registered in MLflow.
    """
    with stoppable(), sweep.hold(), signals.before_exit(partial(_ended_at_once, sweep)), report_waits(show.note):
        if resume:
            repair_records(store, sweep, Events(sweep, [show]).note)
        if resume and is_finished(sweep):
            if sweep.ranked():  # its driver failed after the last trial had ended
                sweep.state = "finished"
                sweep.save()
            flush_tracking(sweep, store, data, show, ship)
        else:
            _conduct(sweep, store, data, asked, show, local, resume, lent, ship)


def _ended_at_once(sweep: Sweep) -> None:
    """The records say that nobody runs it any more."""
    for trial in sweep.trials.values():
        if trial.state == "running":
            trial.state = "waiting"
            sweep.save_trial(trial)
    if sweep.state == "running":
        sweep.state = "interrupted"
        sweep.save()


def repair_records(store: Store, sweep: Sweep, note: Callable[[str], None]) -> None:
    """Set damaged records aside and make them anew, of a sweep that nobody else runs; before anything is started."""
    from orchestrator.sweep._reconcile import reconcile
    from orchestrator.sweep._study import open_study

    def fetch(trial: Path) -> None:
        with contextlib.suppress(OSError):
            checkpoint_storage(store, trial).bring(LIGHT)

    if sweep.kind == "sweep":
        told = reconcile(open_study(sweep.folder, sweep.configuration, resume=True), sweep, fetch)
    else:
        told = [sweep.set_aside(file) for file in list(sweep.damaged)]  # a training has its checkpoint alone
    if told:
        sweep.save()
    for text in told:
        note(text)


def is_finished(sweep: Sweep) -> bool:
    """Whether the sweep has ended, and there is no trial left to train: it may still have to be written to MLflow."""
    trials = 1 if sweep.kind == "train" else sweep.configuration.search.trials
    return sweep.state in ("finished", "failed") and len(sweep.trials) >= trials and all(t.ended for t in sweep.trials.values())


def flush_tracking(sweep: Sweep, store: Store, data: Path, show: Show, ship: "Ship | None" = None) -> None:
    """Send to MLflow what it does not have of a sweep that is over."""
    from orchestrator.tracking.tracker import Tracker

    tracker, state = Tracker(store, sweep, read_summary(data)["classes"], ship), sweep.state
    events = Events(sweep, [show])
    tracker.listen(events.note, events.note_pending, events.settle)
    with stoppable():
        tracker.close(state)


def _conduct(
    sweep: Sweep,
    store: Store,
    data: Path,
    asked: TeacherAccess | None,
    show: Show,
    local: bool,
    resume: bool,
    lent: Lent | None,
    ship: "Ship | None",
) -> None:
    from orchestrator.tracking.health import find_unreachable
    from orchestrator.tracking.tracker import Tracker

    started = time.monotonic()
    sweep.state = "running"
    sweep.save()
    tracker = Tracker(store, sweep, read_summary(data)["classes"], ship)
    events = Events(sweep, [tracker, show])
    tracker.listen(events.note, events.note_pending, events.settle)
    state = "failed"
    try:
        configuration = sweep.configuration
        trials = 1 if sweep.kind == "train" else configuration.search.trials
        methods = ", ".join(searched_methods(configuration)) if sweep.kind == "sweep" else configuration.method.name
        show.preparing(f"{sweep.name}: {trials} x {configuration.training.epochs} epochs of {methods} on {configuration.data.name}")
        if not lent:
            explain_data(configuration, data, show)
        if missed := find_unreachable(configuration.tracking.uri):
            events.note_pending(missed)
        beside, unended = count_influence_actors(configuration, sweep.kind), partial(_unended, sweep, trials)
        begun = (
            _given_back(lent, sweep)
            if lent
            else open_dispatcher(store, configuration, sweep.folder / "groups", trials, local, show, events.note, unended, beside)
        )
        ended = ""
        with report_waits(events.note), stoppable(), begun as (desk, at_once):
            folders = _folders(sweep, store, data, asked, desk, show, events, tracker)
            if sweep.kind == "train":
                _train_one(sweep, desk, events, folders)
            else:
                from orchestrator.sweep._tune_runner import run_trials

                ended = run_trials(store, sweep, desk, events, folders, at_once, resume, started)
        if ended:
            events.note(f"the sweep ended before its last trial: {ended}")
        state = "finished" if sweep.ranked() and not ended else "failed"
        if warning := worse_than_student(sweep, data):
            events.note(warning)
    except KeyboardInterrupt:
        state = "interrupted"
    except PreflightError as error:
        state = "interrupted"  # nothing is wrong with the trials: they go on when the cluster, or this machine, is fit
        Events(sweep, []).note(str(error))  # whoever started it hears it as an error
        raise
    finally:
        _close(sweep, store, events, state, time.monotonic() - started)
        tracker.close(state, signals.remaining_timeout(MLFLOW_S) if state == "interrupted" else None)


def explain_data(configuration: Configuration, data: Path, show: Steps) -> None:
    """Show which augmentation and normalisation apply to the prepared data in a folder, and why."""
    for title, line in explain(configuration.data, read_summary(data)).items():
        show.note(f"{title}: {line}")


def _close(sweep: Sweep, store: Store, events: Events, state: str, seconds: float) -> None:
    """The records say how it ended, and how long (s) it ran this time."""
    for trial in sweep.trials.values():
        if not trial.ended:
            events.end(trial, "waiting")
        elif not sweep.saved(trial):
            sweep.save_trial(trial)  # the end may have come between the study and the record
    if sweep.kind == "sweep":
        remove_losers(store, sweep)
    sweep.state, sweep.seconds = state, sweep.seconds + seconds
    sweep.save()


def _unended(sweep: Sweep, trials: int) -> int:
    """Trials that have not ended."""
    return trials - sum(trial.ended for trial in list(sweep.trials.values()))


@contextlib.contextmanager
def _given_back(lent: Lent, sweep: Sweep) -> Iterator[Lent]:
    """Worker groups that are lent; when all went well, none of them works on a trial of this sweep any more."""
    yield lent
    desk, heartbeat_timeout_s = lent[0], sweep.configuration.resources.heartbeat_timeout_s
    for number in sweep.trials:
        desk.stop(trial_name(number))
    for number in sweep.trials:
        desk.wait_until_released(trial_name(number), heartbeat_timeout_s)


@contextlib.contextmanager
def open_dispatcher(
    store: Store,
    configuration: Configuration,
    folder: Path,
    trials: int,
    local: bool,
    show: Steps,
    note: Callable[[str], None],
    unended: Callable[[], int],
    beside: int = 0,
) -> Iterator[Lent]:
    """Who trains, `beside` influence actors in each group, and how many trials at a time; within `stoppable`.

    `unended`: how many trials are to go on; `note`: hears of trouble, from any thread.
    """
    if local:
        from orchestrator.cluster.local_backend import LocalDispatcher

        here = LocalDispatcher(note)
        try:
            yield here, lambda: 1
        finally:
            here.close(signals.remaining_timeout(LOCAL_S))
        return
    from orchestrator.cluster.connect import connect_to_ray, free_nodes, nodes
    from orchestrator.cluster.descendants import end_left_over, record_descendants
    from orchestrator.cluster.group_autoscaler import ScalingPolicy
    from orchestrator.cluster.groups import worker_groups
    from orchestrator.config.resources import cluster_address
    from orchestrator.sweep._watchdog import watch_trials as looked_after

    resources = configuration.resources
    if ended := end_left_over(store.root):
        show.preparing(f"{len(ended)} processes were ended that a run which had died left behind")
    show.preparing("starting Ray")
    address = cluster_address(resources)
    with record_descendants(folder), connect_to_ray(address) as available:
        signals.reinstall_handlers()  # Ray has set signal handlers of its own
        plan = groups(configuration, available, trials, nodes(), beside, free_nodes(), elastic=bool(address))
        show.preparing(f"starting {plan.groups} worker groups of {plan.workers} workers")
        rules = ScalingPolicy(
            resources.groups or trials, unended, note, resources.heartbeat_warning_s, resources.heartbeat_timeout_s
        )
        with (
            worker_groups(plan, folder, resources.max_failures, own_cluster=not address, rules=rules) as desk,
            looked_after(desk, resources, note),
        ):
            signals.reinstall_handlers()
            yield desk, desk.at_once


def bring_teacher(
    store: Store,
    configuration: Configuration,
    data: Path,
    show: Steps,
    local: bool,
    cache: TeacherAccess | None,
    filling: Filling | None,
) -> tuple[Path, dict[str, Any], float]:
    """The teacher alone: its folder, its card, and the seconds that it cost; then its `cache` is filled, if somebody looks on."""
    summary = describe(configuration.data, store.root, configuration.data.seed)
    views = views_to_fill(configuration, summary["augmentation"]) if filling else []
    jobs = max(len(views), 1)
    explain_data(configuration, data, show)
    with (
        report_waits(show.note),
        stoppable(),
        open_dispatcher(store, configuration, store.teachers / "groups", jobs, local, show, show.note, lambda: jobs) as (
            desk,
            at_once,
        ),
    ):
        found = acquire_teacher(store, configuration, data, desk, show.teacher_epoch)
        report_teacher(found[1], data, show.teacher_ready, show.note)
        if filling:
            assert cache is not None and cache.folder is not None, "who asks at every step is refused before"
            folders = store.shared | {
                "folder": store.teachers / "groups",
                "data": data,
                "teacher": found[0],
                "knowledge": cache.folder,
            }
            features = any(method.needs.bank for method in build_all_variants(configuration, searching=True))
            shares = distribute_views(views, max(at_once(), 1), everywhere=cache.of_each_node)
            show.preparing(f"filling {len(views)} views in {cache.folder}")
            filling.begin(sum(map(len, shares)), summary["sizes"]["train"])
            precompute_views(configuration, folders, shares, features, desk, filling)
        return found


def _folders(
    sweep: Sweep,
    store: Store,
    data: Path,
    asked: TeacherAccess | None,
    desk: TrialDispatcher,
    show: Show,
    events: Events,
    tracker: Any,
) -> dict[str, Any]:
    """The folders that every trial reads."""
    folders: dict[str, Any] = {"trials": str(sweep.folder / "trials"), "data": str(data), "teacher": None, "knowledge": None}
    folders |= store.shared
    if sweep.configuration.teacher:
        show.preparing("bringing the teacher")
        folder, card, seconds = acquire_teacher(store, sweep.configuration, data, desk, show.teacher_epoch)
        assert asked is not None
        TEACHER.keep(sweep.folder / CARD, card)
        report_teacher(card, data, show.teacher_ready, events.note)
        show.preparing(f"the teacher is {asked.words}")
        tracker.teacher_ready(card["metrics"], seconds, asked.words)
        folders |= {"teacher": str(folder), "knowledge": str(asked.folder) if asked.folder else None}
    return folders


def _train_one(sweep: Sweep, desk: TrialDispatcher, events: Events, folders: dict[str, Any]) -> None:
    trial = sweep.trials.get(0) or Trial(0, {})
    if trial.ended:
        return
    specification = TrialSpec.numbered(0, sweep.configuration, folders, known=trial.epochs)
    events.start(trial)
    desk.submit(specification.name, specification.plain())
    while not trial.ended:
        record = desk.next_report(specification.name, sweep.configuration.resources.heartbeat_timeout_s)
        if record.get("failed"):
            events.end(trial, "failed", record["failed"])
            raise TrialError(record["failed"], field="trial", value=record["failed"])
        events.report(trial, record)
        if record.get("done"):
            events.end(trial, "complete")
