"""What happens in a sweep, told to whoever listens: records, tracking, display, the dispatcher."""

import threading
import time
from typing import Any, Protocol

from orchestrator.config.objectives import goals
from orchestrator.core.privacy import sanitize
from orchestrator.store.records import Note, Sweep, Trial

NOTES = 100  # of the newest are kept in the record
_noting = threading.Lock()


class Listener(Protocol):
    """Hears of every trial in the driver's process; must not raise and must not take long."""

    def trial_started(self, trial: Trial) -> None:
        """A trial begins, or goes on after a resume: once in a run, with its first turn."""

    def trial_reported(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """An epoch is finished."""

    def trial_changed(self, trial: Trial) -> None:
        """The trial goes on from another one's weights, with other settings: its last change."""

    def trial_ended(self, trial: Trial) -> None:
        """The trial is complete, stopped early, failed, or (`waiting`) left for a resume."""

    def note(self, text: str) -> None:
        """What a person should know of the run as a whole; may come from any thread."""


class Events:
    """Keeps the trials of the sweep up to date, then tells the listeners."""

    def __init__(self, sweep: Sweep, listeners: list[Listener]) -> None:
        self.sweep, self.listeners = sweep, listeners
        self.begun: set[int] = set()  # in this run

    def and_tell(self, listener: Listener) -> "Events":
        """The same events, of which one more hears."""
        more = Events(self.sweep, [*self.listeners, listener])
        more.begun = self.begun
        return more

    def note(self, text: str, pending: bool = False) -> None:
        """Something that a person should know now, and who looks later too: what a trial waits for, a full disk, a lost node.

        `pending`: until `settle`, which takes it out of the record.
        """
        text = sanitize(text)
        with _noting:
            if self.sweep.notes and self.sweep.notes[-1]["text"] == text:
                return  # said by another group, of the same thing
            note = Note(time=time.time(), text=text)
            if pending:
                note["pending"] = True
            self.sweep.notes = [*self.sweep.notes, note][-NOTES:]
        for listener in self.listeners:
            listener.note(text)
        self.sweep.save()

    def note_pending(self, text: str) -> None:
        """Note what holds until `settle`."""
        self.note(text, pending=True)

    def settle(self) -> None:
        """Take out of the record what was noted as pending, in this run or an earlier one: it has come to its end."""
        with _noting:
            kept = [note for note in self.sweep.notes if not note.get("pending")]
            settled, self.sweep.notes = len(kept) < len(self.sweep.notes), kept
        if settled:
            self.sweep.save()

    def wait(self, trial: Trial) -> None:
        """A trial stands ready for its first turn, or its next one."""
        trial.state = "waiting"
        self.sweep.save_trial(trial)

    def start(self, trial: Trial) -> None:
        """A trial has its turn."""
        trial.state = "running"
        self.sweep.save_trial(trial)
        if trial.number not in self.begun:
            self.begun.add(trial.number)
            for listener in self.listeners:
                listener.trial_started(trial)

    def report(self, trial: Trial, record: dict[str, Any]) -> None:
        """A record of a finished epoch; one that was told before, as after a resume, is no news."""
        epoch, metrics = record["epoch"], record["metrics"]
        record = record | {"notes": [*map(sanitize, record.get("notes", []))]}
        if epoch <= trial.epochs or not trial.hear(record, [goal.name for goal in goals(self.sweep.configuration.search)]):
            return
        for listener in self.listeners:  # before the record: an epoch that it knows is not told again after a kill
            listener.trial_reported(trial, epoch, metrics)
        self.sweep.save_trial(trial)

    def change(self, trial: Trial, epoch: int, source: int, params: dict[str, Any]) -> None:
        """After `epoch` epochs the trial takes over the weights of the trial `source`, and goes on with `params`."""
        trial.changes = [*trial.changes, {"epoch": epoch, "source": source, "params": params}]
        self.sweep.save_trial(trial)
        for listener in self.listeners:
            listener.trial_changed(trial)

    def end(self, trial: Trial, state: Any, message: str = "") -> None:
        """Nothing more comes of the trial in this run; of one that waits and has not begun there is nothing to tell."""
        trial.state, trial.message = state, sanitize(message)
        self.sweep.save_trial(trial)
        if state == "waiting" and trial.number not in self.begun:
            return
        for listener in self.listeners:
            listener.trial_ended(trial)
