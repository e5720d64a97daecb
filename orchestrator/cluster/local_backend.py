"""Run trials without Ray, in one thread of this process.

This is for debugging, and for machines without Ray.
"""

import queue
import threading
import time
import traceback
from collections.abc import Callable

import torch

from methods import SettingsError
from orchestrator.cluster._failures import classify_failure
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import PreflightError, UserError
from orchestrator.core.reports import NoWorkers, Report, TrialFailure
from orchestrator.training.execute import execute


class LocalDispatcher:
    """Local counterpart of `DispatcherClient`, which runs one trial at a time.

    `note` receives messages for the user.
    """

    name = "local"

    def __init__(self, note: Callable[[str], None] = lambda text: None) -> None:
        self.reports: queue.Queue[Report | NoWorkers] = queue.Queue()
        self.stopped = threading.Event()
        self.last_heartbeat, self.activity, self.note = time.monotonic(), "startup", note
        self.thread: threading.Thread | None = None
        self.device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")

    def submit(self, spec: TrialSpec) -> None:
        """Start to train a trial."""
        self.stopped.clear()
        self.phase("startup")
        self.thread = threading.Thread(
            target=self._train, args=(spec,), name=spec.name, daemon=True
        )
        self.thread.start()

    def next_report(self, trial: str, heartbeat_timeout_s: float) -> Report:
        """Return the next report on the trial.

        Raises:
            PreflightError: There was no heartbeat for `heartbeat_timeout_s` seconds, or this
                machine cannot train the trial.
        """
        while True:
            last_heartbeat = self.last_heartbeat
            try:
                report = self.reports.get(
                    timeout=max(last_heartbeat + heartbeat_timeout_s - time.monotonic(), 0)
                )
            except queue.Empty as error:
                if self.last_heartbeat == last_heartbeat:
                    raise PreflightError(
                        f"{trial} has sent no heartbeat for {heartbeat_timeout_s:g} s "
                        f"(resources.heartbeat_timeout_s), last at {self.activity}: check what "
                        "it waits for, such as a disk, and raise "
                        "resources.heartbeat_timeout_s only if a single step takes longer"
                    ).with_details(
                        "resources.heartbeat_timeout_s",
                        heartbeat_timeout_s,
                        f"longer than {self.activity} takes",
                    ) from error
                continue
            if isinstance(report, NoWorkers):
                raise PreflightError(report.reason).with_details("trial", report.reason)
            return report

    def stop(self, trial: str) -> None:
        """End the training early."""
        self.stopped.set()

    def close(self, wait_s: float) -> None:
        """Stop the training, and wait at most `wait_s` seconds for its end.

        A process that exits while it computes is aborted.
        """
        self.stopped.set()
        if self.thread:
            self.thread.join(wait_s)

    def heartbeat(self) -> None:
        """Record a heartbeat between reports."""
        self.last_heartbeat = time.monotonic()

    def phase(self, activity: str) -> None:
        """Record the activity of the training from now on."""
        self.activity = activity
        self.heartbeat()

    def _train(self, spec: TrialSpec) -> None:
        context = TrialContext(
            device=self.device,
            report=self.reports.put,
            stop_requested=self.stopped.is_set,
            heartbeat=self.heartbeat,
            note=self.note,
            phase=self.phase,
        )
        try:
            execute(spec, context)
        except Exception as error:
            failure = classify_failure(error, spec, self.device)
            if not isinstance(error, UserError | SettingsError):
                traceback.print_exc()
            self.reports.put((TrialFailure if failure.from_trial else NoWorkers)(failure.message))
