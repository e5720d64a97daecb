"""Turn the events of a sweep into MLflow writes: a parent run for the sweep, a child run per trial.

Where a trial has several students, its run has a child run for each. It holds the metrics of that
student under their plain names.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from orchestrator.config.objectives import describe_objective
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.provenance import describe
from orchestrator.data.dataset import DataSummary, read_summary
from orchestrator.extensions.loading import loaded_files
from orchestrator.extensions.record import CODE
from orchestrator.reporting.peer_gain import peer_gains
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.teacher.quality import ACCURACY
from orchestrator.tracking import _description as described
from orchestrator.tracking import model_registry
from orchestrator.tracking._machine import Machine
from orchestrator.tracking._values import (
    PARENT,
    apply_or_base,
    flatten,
    now_ms,
    setting_points,
    setting_tags,
    split_by_run,
    tracking_uri,
)
from orchestrator.tracking._writer import make_writer
from orchestrator.tracking._writes import (
    CloseRun,
    LogDataset,
    LogFigures,
    LogFront,
    LogParams,
    LogPoints,
    LogText,
    OpenRun,
    RegisterModel,
    RunProgress,
    SetTags,
)
from orchestrator.tracking.overrides import unused_variables

STATUS = {
    "complete": "FINISHED",
    "stopped_early": "FINISHED",
    "failed": "FAILED",
    "running": "KILLED",
    "waiting": "KILLED",
}
CONFIGURATION = "configuration.json"
FRONT = "pareto_front"
Notify = Callable[[str], None]


class Tracker:
    """Listener of a sweep that records its events in MLflow.

    A write is on disk when the call returns. A resume continues the same runs. The outbox records
    the progress of each run, so that a repeated event is not written twice.

    Args:
        store: The store of the sweep.
        sweep: The sweep.
        classes: The names of the classes, for the figures.
    """

    def __init__(self, store: Store, sweep: Sweep, classes: Sequence[str] = ()) -> None:
        self.store, self.sweep, self.data = store, sweep, _data(sweep)
        self.uri = tracking_uri(store, sweep.configuration)
        self.letters = tuple(sweep.configuration.students) if sweep.configuration.peers else ()
        self.registers_model = sweep.kind in model_registry.KINDS
        self.writer = make_writer(store, sweep, self.uri, classes, self.registers_model)
        new = self.writer.writes.new
        self.machine = Machine(store.root, self._progress(PARENT).measured or 0)
        if sweep.state == "running":
            self._open_parent()
        if not new:  # without an earlier outbox, the earlier writes are unknown
            self._catch_up()

    def listen(
        self,
        notify: Notify,
        notify_pending: Notify | None = None,
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        """Set the callbacks for notes.

        They may be called from any thread. Without them notes are logged.

        Args:
            notify: Receives notes about MLflow.
            notify_pending: Receives notes that hold until MLflow has everything.
            settled: Called when MLflow has everything.
        """
        self.writer.notify = notify
        self.writer.notify_pending, self.writer.settled = notify_pending or notify, settled
        for text in unused_variables(self.uri):
            notify(text)

    def begin(self) -> None:
        """Start the process that writes to MLflow, which imports it for seconds."""
        self.writer.begin()

    def trial_started(self, trial: Trial) -> None:
        """Open the child run of a trial, or continue it."""
        configuration = apply_or_base(self.sweep.configuration, trial.params)
        params = {name: str(value) for name, value in trial.params.items()}
        params |= {
            f"training.{name}": str(value)
            for name, value in configuration.training.model_dump(mode="json").items()
        }
        method, number, key = configuration.method.name, trial.number, str(trial.number)
        resolved = apply_or_base(self.sweep.configuration, trial.settings)
        tags = described.tags(configuration, resolved.method.name) | {"kind": "trial"}
        new = key not in self.writer.run_progress
        changing = self.sweep.configuration.search.scheduler == "pbt"
        if changing:
            tags |= setting_tags(trial.settings)
        name = f"{self.sweep.name}/{number:03d} {method}"
        self._open(key, name, tags)
        if new:
            self._dataset(key)
        if new and changing:
            self.writer.add(LogPoints(run=key, points={key: setting_points(trial.params, 0)}))
        self.writer.add(LogParams(run=key, params=params))
        for letter in self.letters:
            student, below = configuration.students[letter], f"{number}/{letter}"
            student_tags = tags | {
                "kind": "student",
                "letter": letter,
                "student": student.network.name,
            }
            parts = {
                "network": student.network.model_dump(mode="json"),
                "training": student.training.model_dump(mode="json"),
            }
            self._open(below, f"{name}/{letter}", student_tags)
            self.writer.add(LogParams(run=below, params=flatten(parts)))
        self._configuration(key, resolved)

    def trial_reported(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """Record the metrics of an epoch, once."""
        self.writer.begin()
        key, now = str(trial.number), now_ms()
        if epoch <= (self._progress(key).epoch or 0):
            return
        points = {
            run: [(name, value, now, epoch) for name, value in values.items()]
            for run, values in split_by_run(trial.number, metrics, self.letters).items()
        }
        self.writer.add(LogPoints(run=key, points=points, progress=RunProgress(epoch=epoch)))
        self._record_machine_load()

    def trial_changed(self, trial: Trial) -> None:
        """Record the settings in force after a weight transfer.

        Numbers are metrics, because MLflow does not overwrite a param; other values are tags. A
        number that is no longer set becomes NaN.
        """
        key, number = str(trial.number), len(trial.changes)
        if number <= (self._progress(key).changes or 0):
            return
        change, before = (
            trial.changes[-1],
            [trial.params, *(change["params"] for change in trial.changes[:-1])],
        )
        configuration = apply_or_base(self.sweep.configuration, trial.settings)
        points = setting_points(change["params"], change["epoch"])
        tags = setting_tags(change["params"])
        left = [
            name
            for name in setting_points(before[-1], 0)
            if name[0] not in {point[0] for point in points}
        ]
        points += [(name, math.nan, now_ms(), change["epoch"]) for name, *_ in left]
        gone = sorted({name for settings in before for name in setting_tags(settings)} - set(tags))
        tags |= {"method": configuration.method.name, "taken_over": trial.taken_over}
        self.writer.add(LogPoints(run=key, points={key: points}))
        progress = RunProgress(changes=number)
        self.writer.add(SetTags(run=key, tags=tags, without=tuple(gone), progress=progress))
        self._configuration(key, configuration)

    def trial_ended(self, trial: Trial) -> None:
        """Close the child run with its state, and record the best value so far on the parent."""
        key, state = str(trial.number), trial.state
        tags = {"state": str(state)} | ({"message": trial.remarks} if trial.remarks else {})
        for run in (*(f"{key}/{letter}" for letter in self.letters), key):
            progress = RunProgress(state=state) if run == key else None
            self.writer.add(
                CloseRun(run=run, tags=tags, status=STATUS[state], at=now_ms(), progress=progress)
            )
        if trial.ended:
            figures = LogFigures(run=key, complete=state == "complete", letters=self.letters)
            self.writer.add(figures, files=True)
        best = self.sweep.best()
        if best and best.value is not None and state == "complete":
            point = ("best_so_far", best.value, now_ms(), trial.number)
            self.writer.add(LogPoints(run=PARENT, points={PARENT: [point]}))

    def note(self, text: str) -> None:
        """Do nothing: the record of the sweep keeps the note."""

    def teachers_ready(
        self, metrics: Sequence[dict[str, float]], seconds: float, access: str
    ) -> None:
        """Record the metrics of each teacher and the access mode on the parent run.

        The metrics are recorded once. Those of several teachers have their numbers.
        """
        prefixes = [f"{number}/" for number in range(len(metrics))] if len(metrics) > 1 else [""]
        known = {
            f"{prefix}{name}": value
            for prefix, each in zip(prefixes, metrics, strict=True)
            for name, value in each.items()
        } | {"seconds": seconds}
        if not self._progress(PARENT).teacher:
            points = [(f"teacher/{name}", value, now_ms(), 0) for name, value in known.items()]
            self.writer.add(
                LogPoints(run=PARENT, points={PARENT: points}, progress=RunProgress(teacher=True))
            )
        # The description now contains the teacher's accuracy
        tags = {"teacher.asked": access} | self._note("running")
        accuracies = [f"{each[ACCURACY]:.4f}" for each in metrics if ACCURACY in each]
        if accuracies:
            tags["teacher.validation_accuracy"] = ", ".join(accuracies)
        self.writer.add(SetTags(run=PARENT, tags=tags))

    def end(self, state: str) -> None:
        """Close the parent run with the best trial's metrics and the Pareto front, once.

        This only queues the writes, so that they are sent while Ray ends.

        Args:
            state: The final state of the sweep.
        """
        for trial in self.sweep.trials.values():  # trials of a dead driver that did not run again
            if not trial.ended and self._progress(str(trial.number)).state == "running":
                self.trial_ended(trial)
        if self._progress(PARENT).state != state:
            self._record_peer_gains()
            if self.sweep.configuration.search.objectives and self.sweep.kind == "sweep":
                self._record_front()
            if state == "finished" and self.sweep.kind == "sweep":
                progress = self._tag_best_trial()
            else:
                progress = RunProgress()
            self._close_parent(state, progress)

    def close(self, state: str, timeout: float | None = None) -> int:
        """Queue the end of the sweep and wait for the writes.

        The wait is bounded; after an interruption it is a few seconds.

        Args:
            state: The final state of the sweep.
            timeout: The longest wait in seconds; None for the default.

        Returns:
            The number of unsent writes, which a resume sends.
        """
        self.end(state)
        return self.writer.close(hurried=state == "interrupted", timeout=timeout)

    def _progress(self, run: str) -> RunProgress:
        return self.writer.run_progress.get(run, RunProgress())

    def _open_parent(self) -> None:
        plain = self.sweep.configuration.plain()
        tags = {
            "kind": self.sweep.kind,
            **described.tags(
                self.sweep.configuration, described.searched_methods(self.sweep.configuration)
            ),
        }
        new = PARENT not in self.writer.run_progress
        self._open(
            PARENT, self.sweep.name, tags | describe() | self._note("running") | self._code_tags()
        )
        if new:
            self._dataset(PARENT)
        self.writer.add(LogParams(run=PARENT, params=flatten(plain)))
        self._configuration(PARENT, self.sweep.configuration)
        for file in loaded_files():
            self.writer.add(
                LogText(run=PARENT, text=file.text, file=f"{CODE}/{file.name}"), files=True
            )

    def _code_tags(self) -> dict[str, str]:
        code = self.sweep.described.get(CODE, {})
        return {f"{CODE}.{name}": str(identity) for name, identity in code.items()}

    def _open(self, key: str, name: str, tags: dict[str, str]) -> None:
        running, progress = tags | {"state": "running"}, RunProgress(state="running")
        self.writer.add(OpenRun(run=key, name=name, tags=running, at=now_ms(), progress=progress))

    def _configuration(self, key: str, configuration: Configuration) -> None:
        text = json.dumps(configuration.plain(), indent=1)
        self.writer.add(LogText(run=key, text=text, file=CONFIGURATION), files=True)

    def _note(self, state: str, model: str = "") -> dict[str, str]:
        """Return the description of the sweep as a tag."""
        return {described.NOTE: described.description(self.store, self.sweep, state, model)}

    def _dataset(self, key: str) -> None:
        if self.data:
            dataset = described.dataset(self.sweep.configuration, self.data)
            self.writer.add(LogDataset(run=key, dataset=dataset))

    def _record_machine_load(self) -> None:
        if metrics := self.machine.measure():
            points = [
                (name, value, now_ms(), self.machine.steps) for name, value in metrics.items()
            ]
            progress = RunProgress(measured=self.machine.steps)
            self.writer.add(LogPoints(run=PARENT, points={PARENT: points}, progress=progress))

    def _tag_best_trial(self) -> RunProgress:
        """Tag the best trial and queue its student as a model.

        The former best trial loses the tag.

        Returns:
            The record of what was queued: the number of the best trial, and its model.
        """
        best, before = self.sweep.best(), self._progress(PARENT).best_tag
        if before not in (None, best.number if best else None):
            self.writer.add(SetTags(run=str(before), tags={}, without=("best",), existing=True))
        if best is None:
            return RunProgress()
        self.writer.add(SetTags(run=str(best.number), tags={"best": "true"}, existing=True))
        source, progress = (best.number, best.epochs), RunProgress(best_tag=best.number)
        if not self.registers_model:
            return progress
        if self._progress(PARENT).model != source:
            letter = self._leader(best)
            configuration = apply_or_base(self.sweep.configuration, best.settings)
            student = configuration.students[letter].network.name
            tags = {
                "trial": str(best.number),
                "epochs": str(best.epochs),
                "letter": letter,
                "student": student,
            }
            tags |= {"method": configuration.method.name, "data": configuration.data.name}
            self.writer.add(
                RegisterModel(run=PARENT, trial=best.number, letter=letter, tags=tags), files=True
            )
        return replace(progress, model=source)

    def _leader(self, best: Trial) -> str:
        """Return the letter of a trial's best student on the validation part."""
        letters = self.letters or tuple(self.sweep.configuration.students)
        return max(
            letters, key=lambda letter: best.metrics.get(f"{letter}/validation/accuracy", 0.0)
        )

    def _catch_up(self) -> None:
        """Queue the writes that are missing because the process died before it added them."""
        for trial in self.sweep.trials.values():
            progress = self.writer.run_progress.get(str(trial.number))
            if progress and trial.changes:
                self.trial_changed(trial)
            if trial.ended and (progress is None or progress.state != trial.state):
                if progress is None:
                    self.trial_started(trial)
                self.trial_ended(trial)

    def _record_peer_gains(self) -> None:
        """Record each student's gain from peer learning, for each complete trial."""
        for trial in self.sweep.ranked() if self.letters else ():
            for letter, gain in peer_gains(self.sweep, trial).items():
                key, values = f"{trial.number}/{letter}", (gain.validation, gain.test)
                if self._progress(key).gains != values:
                    named = {
                        "gain/validation_accuracy": gain.validation,
                        "gain/test_accuracy": gain.test,
                    }
                    points = {key: [(name, value, now_ms(), 0) for name, value in named.items()]}
                    progress = RunProgress(gains=values)
                    self.writer.add(
                        LogPoints(run=key, points=points, existing=True, progress=progress)
                    )

    def _record_front(self) -> None:
        """Record the Pareto front as a file and a picture of the parent, and as tags of trials."""
        objectives, front = self.sweep.goals, self.sweep.front()
        names, numbers = [goal.name for goal in objectives], [trial.number for trial in front]
        values = {
            str(trial.number): trial.values
            for trial in self.sweep.ranked()
            if trial.state == "complete" and trial.values
        }
        members = [
            {
                "trial": trial.number,
                "values": dict(zip(names, trial.values or (), strict=True)),
                "settings": trial.settings,
            }
            for trial in front
        ]
        plain = {"objectives": [goal._asdict() for goal in objectives], "front": members}
        words = [describe_objective(self.sweep.configuration, name) for name in names]
        drawn = LogFront(
            run=PARENT, content=plain, values=values, numbers=numbers, names=words, file=FRONT
        )
        self.writer.add(drawn, files=True)
        for key in values:
            among = str(int(key) in numbers).lower()
            if self._progress(key).front != among:
                progress = RunProgress(front=among)
                self.writer.add(
                    SetTags(run=key, tags={FRONT: among}, existing=True, progress=progress)
                )

    def _close_parent(self, state: str, progress: RunProgress) -> None:
        note = self._note(
            state,
            model_registry.model_name(self.sweep)
            if self._progress(PARENT).merge(progress).model
            else "",
        )
        tags, ids, best = {"state": state} | note, dict[str, str](), self.sweep.best()
        if best:
            source = (best.number, best.epochs)
            if self._progress(PARENT).best != source:
                points = {
                    PARENT: [
                        (f"best/{name}", value, now_ms(), 0) for name, value in best.metrics.items()
                    ]
                }
                self.writer.add(
                    LogPoints(run=PARENT, points=points, progress=RunProgress(best=source))
                )
            tags |= {"best.trial": str(best.number)} | {
                f"best.{name}": str(value) for name, value in best.settings.items()
            }
            ids = {"best.run": str(best.number)}
        self.writer.add(SetTags(run=PARENT, tags=tags, ids=ids, progress=progress))
        status = {"finished": "FINISHED", "failed": "FAILED"}.get(state, "KILLED")
        ended, closed = {"state": state}, RunProgress(state=state)
        self.writer.add(
            CloseRun(run=PARENT, tags=ended, status=status, at=now_ms(), progress=closed)
        )


def _data(sweep: Sweep) -> DataSummary | None:
    """Return the summary of the run's data; None if the run has no valid copy."""
    try:
        return read_summary(sweep.folder)
    except ConfigurationError:
        return None
