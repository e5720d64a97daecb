"""The desk without Ray: one thread of this process is the only worker. For debugging, and for machines without Ray."""

import queue
import threading
import time
import traceback
from typing import Any

import torch

from methods import SettingsError
from orchestrator.context import Record, TrialContext
from orchestrator.errors import EnvironmentUnfitError, UserError
from orchestrator.training.job import work
from orchestrator.trial import TrialSpec


class LocalDesk:
    """Takes, reports and stops one trial at a time, as `Desk` does."""

    name = "local"

    def __init__(self) -> None:
        self.records: queue.Queue[Record] = queue.Queue()
        self.stopped = threading.Event()
        self.heard = time.monotonic()
        self.thread: threading.Thread | None = None
        self.device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")

    def submit(self, trial: str, specification: dict[str, Any]) -> None:
        """Start to train."""
        self.stopped.clear()
        self.alive()
        self.thread = threading.Thread(target=self._train, args=(specification,), name=trial, daemon=True)
        self.thread.start()

    def next_report(self, trial: str, silence_s: float) -> Record:
        """The next record; EnvironmentUnfitError when nothing was heard of the trial for so long."""
        while True:
            heard = self.heard
            try:
                return self.records.get(timeout=max(heard + silence_s - time.monotonic(), 0))
            except queue.Empty as error:
                if self.heard == heard:
                    raise EnvironmentUnfitError(
                        f"nothing was heard of {trial} for {silence_s:g} s: raise resources.wait_s if a step takes longer"
                    ) from error

    def stop(self, trial: str) -> None:
        """End the training early."""
        self.stopped.set()

    def close(self, wait_s: float) -> None:
        """Wait so long for the training to end; a process that goes while it computes is aborted."""
        self.stopped.set()
        if self.thread:
            self.thread.join(wait_s)

    def alive(self) -> None:
        """A sign of life between reports."""
        self.heard = time.monotonic()

    def _train(self, specification: dict[str, Any]) -> None:
        context = TrialContext(device=self.device, report=self.records.put, asked_to_stop=self.stopped.is_set, alive=self.alive)
        try:
            work(TrialSpec.model_validate(specification), context)
        except (UserError, SettingsError) as error:
            self.records.put({"failed": str(error)})
        except Exception as error:
            traceback.print_exc()
            self.records.put({"failed": f"{type(error).__name__}: {error}"})
