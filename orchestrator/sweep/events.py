"""Update the records of a sweep on each event, and notify tracking, display and dispatcher."""

import threading
import time
from dataclasses import replace
from typing import Any, Protocol

from orchestrator.config.objectives import list_objectives
from orchestrator.config.trial import Parameters
from orchestrator.core.privacy import sanitize
from orchestrator.core.reports import EpochRecord
from orchestrator.store.records import Note, Sweep, Trial

NOTES = 100  # newest notes that the record keeps
_noting = threading.Lock()


class Listener(Protocol):
    """Receiver of trial events in the driver's process; must not raise and must not take long."""

    def trial_started(self, trial: Trial) -> None:
        """Handle the first time that a trial trains in a run, at its start or after a resume."""

    def trial_reported(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """Handle a finished epoch."""

    def trial_changed(self, trial: Trial) -> None:
        """Handle a trial that continues from another trial's weights with other settings.

        They are in its last change.
        """

    def trial_ended(self, trial: Trial) -> None:
        """Handle a trial that is complete, stopped early or failed, or waits for a resume."""

    def note(self, text: str) -> None:
        """Handle a message about the whole run; may be called from any thread."""


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


class Events:
    """Events of a sweep, which update its records and then notify the listeners."""

    def __init__(self, sweep: Sweep, listeners: list[Listener]) -> None:
        self.sweep, self.listeners = sweep, listeners
        self.started_trials: set[int] = set()  # trials that had a turn in this run

    def with_listener(self, listener: Listener) -> "Events":
        """Return the same events with one more listener."""
        more = Events(self.sweep, [*self.listeners, listener])
        more.started_trials = self.started_trials
        return more

    def note(self, text: str, pending: bool = False) -> None:
        """Record a message for present and later readers, and send it to the listeners.

        Examples are what a trial waits for, a full disk, or a lost node.

        Args:
            text: The message; a repetition of the last one is ignored.
            pending: Keep it in the record only until `settle`.
        """
        text = sanitize(text)
        with _noting:
            if self.sweep.notes and self.sweep.notes[-1]["text"] == text:
                return  # another group reported the same
            note = Note(time=time.time(), text=text)
            if pending:
                note["pending"] = True
            self.sweep.notes = [*self.sweep.notes, note][-NOTES:]
        for listener in self.listeners:
            listener.note(text)
        self.sweep.save()

    def note_pending(self, text: str) -> None:
        """Record a message that holds until `settle`."""
        self.note(text, pending=True)

    def clear_pending_notes(self) -> None:
        """Remove pending messages of this run and earlier ones: what they report has ended."""
        with _noting:
            kept = [note for note in self.sweep.notes if not note.get("pending")]
            settled, self.sweep.notes = len(kept) < len(self.sweep.notes), kept
        if settled:
            self.sweep.save()

    def wait(self, trial: Trial) -> None:
        """Record that a trial is ready for its first or next turn."""
        trial.state = "waiting"
        self.sweep.save_trial(trial)

    def start(self, trial: Trial) -> None:
        """Record that a trial runs; notify the listeners at its first turn in this run."""
        trial.state = "running"
        self.sweep.save_trial(trial)
        if trial.number not in self.started_trials:
            self.started_trials.add(trial.number)
            for listener in self.listeners:
                listener.trial_started(trial)

    def report(self, trial: Trial, record: EpochRecord) -> None:
        """Record a finished epoch and notify the listeners.

        An epoch that was reported before, as after a resume, is ignored. A record that is `behind`
        is written with the later one that follows at once.
        """
        record = replace(record, notes=tuple(map(sanitize, record.notes)))
        if record.epoch <= trial.epochs or not trial.apply_report(
            record, list_objectives(self.sweep.configuration.search)
        ):
            return
        # before the record: after a kill, a recorded epoch is not reported again
        for listener in self.listeners:
            listener.trial_reported(trial, record.epoch, record.metrics)
        if not record.behind:
            self.sweep.save_trial(trial)

    def change(self, trial: Trial, epoch: int, source: int, params: Parameters) -> None:
        """Record that a trial continues from the weights of the trial `source`, with `params`.

        Args:
            epoch: Epochs after which it does so.
        """
        trial.changes = [*trial.changes, {"epoch": epoch, "source": source, "params": params}]
        self.sweep.save_trial(trial)
        for listener in self.listeners:
            listener.trial_changed(trial)

    def end(self, trial: Trial, state: Any, message: str = "") -> None:
        """Record that the trial has ended, or waits, in this run.

        Listeners are not notified of a waiting trial that has not started.
        """
        trial.state, trial.message = state, sanitize(message)
        self.sweep.save_trial(trial)
        if state == "waiting" and trial.number not in self.started_trials:
            return
        for listener in self.listeners:
            listener.trial_ended(trial)
