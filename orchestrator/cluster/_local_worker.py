"""Train the trials that a run sends to this process over a pipe."""

import os
import signal
import sys
import threading
import time
from bdb import BdbQuit
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import torch

from orchestrator.cluster._execution import execute_trial
from orchestrator.cluster._failures import Failure
from orchestrator.cluster._local_messages import (
    Heartbeat,
    Note,
    Ready,
    Released,
    Setup,
    Started,
    Stop,
)
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.privacy import keep_private
from orchestrator.core.reports import TrialFailure
from orchestrator.extensions.shipping import unpack_code


def main() -> None:
    """Train trials until the run ends.

    The arguments are the descriptor of the pipe to the run, and the number of this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run ends its processes
    keep_private()
    connection = Connection(int(sys.argv[1]))
    try:
        connection.send(Started())
        setup = connection.recv()
    except (EOFError, ConnectionError):  # the run has died
        return
    _Worker(connection, setup, _select_device(int(sys.argv[2]))).serve()


class _Worker:
    """Process that trains one trial at a time."""

    def __init__(self, connection: Connection, setup: Setup, device: torch.device) -> None:
        self.connection, self.setup, self.device = connection, setup, device
        self.sending = threading.Lock()
        self.trials: SimpleQueue[tuple[TrialSpec, threading.Event]] = SimpleQueue()
        self.last_heartbeat, self.activity = 0.0, ""

    def serve(self) -> None:
        """Train trials; return if the process cannot train another one."""
        problem = ""
        try:
            unpack_code(self.setup.code)
        except ConfigurationError as error:
            problem = str(error)
        threading.Thread(target=self._receive, name="receiver", daemon=True).start()
        self._send(Ready(problem))
        reusable = True
        while reusable:
            spec, stopped = self.trials.get()
            failure = Failure(True, problem) if problem else self._train(spec, stopped)
            if failure and failure.from_trial:
                self._send(TrialFailure(failure.message))
            self._send(Released(failure))
            reusable = failure is None or failure.process_reusable

    def _train(self, spec: TrialSpec, stopped: threading.Event) -> Failure | None:
        try:
            return execute_trial(spec, self._context(stopped))
        except BdbQuit:  # this process has no terminal
            return Failure(True, "a debugger needs a run in one process")

    def _receive(self) -> None:
        """Receive trials and requests to stop; exit at once when the run has ended or died."""
        stopped = threading.Event()
        while True:
            try:
                message = self.connection.recv()
            except (EOFError, OSError):
                os._exit(0)
            if isinstance(message, Stop):
                stopped.set()
            else:
                stopped = threading.Event()
                self.trials.put((message, stopped))

    def _context(self, stopped: threading.Event) -> TrialContext:
        self.activity = ""
        return TrialContext(
            device=self.device,
            report=self._send,
            stop_requested=stopped.is_set,
            heartbeat=self._heartbeat,
            note=lambda text: self._send(Note(text)),
            phase=self._set_phase,
        )

    def _send(self, message: Any) -> None:
        try:
            with self.sending:
                self.connection.send(message)
        except OSError:  # the run has died
            os._exit(0)

    def _heartbeat(self) -> None:
        now = time.monotonic()
        if now - self.last_heartbeat > self.setup.heartbeat_interval_s:
            self.last_heartbeat = now
            self._send(Heartbeat(self.activity))

    def _set_phase(self, activity: str) -> None:
        self.activity, self.last_heartbeat = activity, 0.0
        self._heartbeat()


def _select_device(index: int) -> torch.device:
    """Return the device of a process: the processes share the visible GPUs in turn."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", index % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


if __name__ == "__main__":
    main()
