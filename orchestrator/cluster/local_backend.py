"""Run trials without Ray, one at a time in a thread of this process.

This is for debugging, and for machines without Ray.
"""

import math
import os
import queue
import signal
import threading
import time
from bdb import BdbQuit
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch

from orchestrator.cluster._execution import execute_trial
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.debugging import is_in_debugger
from orchestrator.core.errors import PreflightError
from orchestrator.core.reports import NoWorkers, Report, TrialFailure


class LocalBackend(Protocol):
    """Local counterpart of `DispatcherClient`, which trains in this process or in others."""

    def submit(self, spec: TrialSpec) -> None:
        """Train a trial as soon as a process is free."""

    def next_report(self, trial: str, heartbeat_timeout_s: float) -> Report:
        """Return the next report on a trial; reports on other trials are dropped.

        Raises:
            PreflightError: This machine cannot train the trial.
        """
        while True:
            event = self.next_event(heartbeat_timeout_s)
            if event and event[0] == trial:
                return event[1]

    def next_event(
        self, heartbeat_timeout_s: float, until: float = math.inf
    ) -> tuple[str, Report] | None:
        """Return the name of a trial and the next report on it.

        Args:
            heartbeat_timeout_s: The longest time without a heartbeat (s).
            until: The time at which the wait ends without a report (s, monotonic).

        Raises:
            PreflightError: This machine cannot train the trial.
        """

    def stop(self, trial: str) -> None:
        """End the training of a trial early."""

    def is_released(self, trial: str) -> bool:
        """Return whether no process trains the trial."""

    def close(self, wait_s: float) -> None:
        """Stop all trainings, and wait at most `wait_s` seconds for their end."""


@dataclass
class _Training:
    """Thread that trains a trial, and the event that stops it."""

    thread: threading.Thread
    stopped: threading.Event = field(default_factory=threading.Event)


class LocalDispatcher(LocalBackend):
    """`LocalBackend` in this process; a trial waits until the one before it has ended.

    `note` receives messages for the user.
    """

    name = "local"

    def __init__(self, note: Callable[[str], None] = lambda text: None) -> None:
        self.reports: queue.Queue[tuple[str, Report | NoWorkers]] = queue.Queue()
        self.trainings: dict[str, _Training] = {}
        self.last_heartbeat, self.activity, self.note = time.monotonic(), "startup", note
        self.device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")

    def submit(self, spec: TrialSpec) -> None:
        """Train a trial as soon as the one before it has ended."""
        before = list(self.trainings.values())[-1:]
        stopped = threading.Event()
        thread = threading.Thread(
            target=self._train, args=(spec, stopped, before), name=spec.name, daemon=True
        )
        self.trainings.pop(spec.name, None)
        self.trainings[spec.name] = _Training(thread, stopped)
        thread.start()

    def next_event(
        self, heartbeat_timeout_s: float, until: float = math.inf
    ) -> tuple[str, Report] | None:
        """Return the next report and its trial, or None at the time `until`.

        Raises:
            PreflightError: There was no heartbeat for `heartbeat_timeout_s` seconds, or this
                machine cannot train the trial.
        """
        while True:
            last_heartbeat = self.last_heartbeat
            end = min(last_heartbeat + heartbeat_timeout_s, until)
            try:
                trial, report = self.reports.get(timeout=max(end - time.monotonic(), 0))
            except queue.Empty:
                if time.monotonic() >= until:
                    return None
                if self.last_heartbeat == last_heartbeat:
                    self._require_debugger(heartbeat_timeout_s)
                continue
            if isinstance(report, NoWorkers):
                raise PreflightError(report.reason).with_details("trial", report.reason)
            return trial, report

    def _require_debugger(self, heartbeat_timeout_s: float) -> None:
        """Count the wait of a user's debugger as a heartbeat; otherwise raise PreflightError."""
        trial, training = list(self.trainings.items())[-1]
        if is_in_debugger(training.thread.ident):
            self.heartbeat()
            return
        raise PreflightError(
            f"{trial} has sent no heartbeat for {heartbeat_timeout_s:g} s "
            f"(resources.heartbeat_timeout_s), last at {self.activity}: check what it waits for, "
            "such as a disk, and raise resources.heartbeat_timeout_s only if a single step takes "
            "longer"
        ).with_details(
            "resources.heartbeat_timeout_s",
            heartbeat_timeout_s,
            f"longer than {self.activity} takes",
        )

    def stop(self, trial: str) -> None:
        """End the training of a trial early."""
        if trial in self.trainings:
            self.trainings[trial].stopped.set()

    def is_released(self, trial: str) -> bool:
        """Return whether the trial is not being trained."""
        return trial not in self.trainings or not self.trainings[trial].thread.is_alive()

    def close(self, wait_s: float) -> None:
        """Stop all trainings, and wait at most `wait_s` seconds for their end.

        A process that exits while it computes is aborted.
        """
        for training in self.trainings.values():
            training.stopped.set()
        for training in list(self.trainings.values())[-1:]:
            training.thread.join(wait_s)

    def heartbeat(self) -> None:
        """Record a heartbeat between reports."""
        self.last_heartbeat = time.monotonic()

    def phase(self, activity: str) -> None:
        """Record the activity of the training from now on."""
        self.activity = activity
        self.heartbeat()

    def _train(self, spec: TrialSpec, stopped: threading.Event, before: list[_Training]) -> None:
        for training in before:
            training.thread.join()
        if stopped.is_set():
            return
        self.phase("startup")

        def report(report: Report | NoWorkers) -> None:
            if not stopped.is_set():
                self.reports.put((spec.name, report))

        context = TrialContext(
            device=self.device,
            report=report,
            stop_requested=stopped.is_set,
            heartbeat=self.heartbeat,
            note=self.note,
            phase=self.phase,
        )
        try:
            failure = execute_trial(spec, context)
        except BdbQuit:  # the user has left the debugger: interrupt the run
            os.kill(os.getpid(), signal.SIGINT)
            return
        if failure:
            report((TrialFailure if failure.from_trial else NoWorkers)(failure.message))
