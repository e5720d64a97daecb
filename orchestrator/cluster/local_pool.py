"""Run trials without Ray, in several warm processes of this machine.

A process ends when the pipe to it closes, and so with its run, even if that is killed.
"""

import math
import os
import subprocess
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pickle import PicklingError
from typing import Any, Literal

import cloudpickle

from orchestrator.cluster._local_messages import (
    Heartbeat,
    Note,
    Ready,
    Released,
    Setup,
    Started,
    Stop,
)
from orchestrator.cluster.local_backend import LocalBackend
from orchestrator.config.resources import local_resources
from orchestrator.config.schema import Resources
from orchestrator.config.trial import TrialSpec
from orchestrator.core.allocator import allocator
from orchestrator.core.child_process import start_child
from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.core.reports import EpochRecord, Report, TrialFailure
from orchestrator.core.signals import defer_signals
from orchestrator.extensions.shipping import pack_code

HEARTBEAT_S = 5.0  # heartbeat interval; less where heartbeat_warning_s is short
POLL_S = 1.0  # between two checks of the heartbeats
START_S = 120.0  # shortest limit for the start of a process, which imports for seconds
KILL_S = 5.0  # for the end of a process after SIGKILL
WORKER = "orchestrator.cluster._local_worker"


@dataclass
class _Trial:
    """Trial that has not been stopped: its last reported epoch and its failures."""

    spec: TrialSpec
    epoch: int = 0
    failures: int = 0


class _Process:
    """Process that trains one trial at a time.

    Attributes:
        state: A process is ready between its start and a failure after which it ends.
        trial: The name of the trial that it holds; "" if it is free.
        cause: Why it was killed; "" if it was not.
    """

    def __init__(self, index: int, processes: int) -> None:
        self.index, self.trial, self.cause = index, "", ""
        self.state: Literal["starting", "ready", "ending"] = "starting"
        threads = max(int(local_resources()["CPU"]) // processes, 1)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, **allocator()}
        self.process, self.connection = start_child(WORKER, str(index), environment=environment)
        self.begin("startup")

    def begin(self, activity: str) -> None:
        """Record a heartbeat with the current activity."""
        self.last_heartbeat, self.activity, self.warned = time.monotonic(), activity, False

    def send(self, message: Any) -> bool:
        """Send a message; return False if the process has ended."""
        try:
            self.connection.send(message)
        except OSError:
            return False
        return True

    def kill(self, cause: str = "") -> None:
        """End the process at once."""
        self.cause = cause
        self.process.kill()

    def wait(self) -> int:
        """Close the pipe, wait until the process has ended, and return its exit code."""
        self.connection.close()
        try:
            return self.process.wait(KILL_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait(KILL_S)


class LocalPool(LocalBackend):
    """`LocalBackend` with a fixed number of processes.

    Nothing happens between the calls: each call that waits receives the messages of all processes.

    Args:
        processes: The number of processes.
        resources: Time limits, and the failures that a trial may have.
        note: Receives messages for the user.

    Raises:
        ConfigurationError: An object of the user code cannot be sent to a process.
    """

    name = "local"

    def __init__(
        self, processes: int, resources: Resources, note: Callable[[str], None] = lambda text: None
    ) -> None:
        self.resources, self.note = resources, note
        interval_s = min(HEARTBEAT_S, resources.heartbeat_warning_s / 4)
        self.setup = _pickle(Setup(pack_code(), interval_s))
        self.trials: dict[str, _Trial] = {}
        self.waiting: deque[str] = deque()
        self.reports: deque[tuple[str, Report]] = deque()
        self.unfit = ""
        self.processes = [_Process(index, processes) for index in range(processes)]

    def submit(self, spec: TrialSpec) -> None:
        """Train a trial as soon as a process is free."""
        self.trials[spec.name] = _Trial(spec)
        self.waiting.append(spec.name)
        self._assign()

    def next_event(
        self, heartbeat_timeout_s: float, until: float = math.inf
    ) -> tuple[str, Report] | None:
        """Return the next report and its trial, or None at the time `until`.

        Raises:
            PreflightError: No process can train.
        """
        while not self.reports:
            if self.unfit:
                raise PreflightError(self.unfit).with_details("processes", self.unfit)
            remaining_s = until - time.monotonic()
            if remaining_s <= 0:
                return None
            self._receive_all(min(POLL_S, remaining_s))
            self._check_heartbeats(heartbeat_timeout_s)
            self._assign()
        return self.reports.popleft()

    def stop(self, trial: str) -> None:
        """End the training of a trial early, and drop its reports."""
        if self.trials.pop(trial, None) is None:
            return
        if trial in self.waiting:
            self.waiting.remove(trial)
        self.reports = deque(event for event in self.reports if event[0] != trial)
        for process in self.processes:
            if process.trial == trial:
                process.send(Stop())

    def is_released(self, trial: str) -> bool:
        """Return whether no process holds the trial."""
        return all(process.trial != trial for process in self.processes)

    def close(self, wait_s: float) -> None:
        """Stop all trainings, wait at most `wait_s` seconds for them, and end the processes."""
        until = time.monotonic() + wait_s
        for trial in list(self.trials):
            self.stop(trial)
        while (
            any(process.trial for process in self.processes)
            and (remaining_s := until - time.monotonic()) > 0
        ):
            self._receive_all(min(POLL_S, remaining_s), restart=False)
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def _assign(self) -> None:
        """Send waiting trials to free processes."""
        for process in self.processes:
            if self.waiting and process.state == "ready" and not process.trial:
                trial = self.trials[self.waiting[0]]
                with defer_signals():
                    if process.send(trial.spec.model_copy(update=self._known(trial))):
                        process.trial = self.waiting.popleft()
                        process.begin("startup")

    @staticmethod
    def _known(trial: _Trial) -> dict[str, int]:
        return {} if trial.spec.known is None else {"known": max(trial.spec.known, trial.epoch)}

    def _receive_all(self, timeout_s: float, restart: bool = True) -> None:
        """Receive a message of each process that has sent one within the timeout."""
        open_processes = [each for each in self.processes if not each.connection.closed]
        readable = wait([process.connection for process in open_processes], timeout_s)
        for process in open_processes:
            if process.connection in readable:
                try:
                    with defer_signals():  # the rest of a message would be read as another one
                        self._handle(process, process.connection.recv())
                except (EOFError, OSError):
                    self._handle_death(process, restart)
            # processes of a dead one may still hold its end of the pipe
            elif process.process.poll() is not None and not process.connection.poll():
                self._handle_death(process, restart)

    def _handle(self, process: _Process, message: Any) -> None:
        process.begin(message.activity if isinstance(message, Heartbeat) else process.activity)
        if isinstance(message, Started):
            process.connection.send_bytes(self.setup)  # an OSError is the end of the process
        elif isinstance(message, Ready):
            process.state = "ready"
        elif isinstance(message, Note):
            self.note(f"{process.trial}: {message.text}")
        elif isinstance(message, Released):
            name, process.trial = process.trial, ""
            if message.failure and not message.failure.from_trial:
                self._retry(name, message.failure.message)
            if message.failure and not message.failure.process_reusable:
                process.state = "ending"
        elif not isinstance(message, Heartbeat):
            self._report(process.trial, message)

    def _report(self, name: str, report: Report) -> None:
        trial = self.trials.get(name)
        if trial is None:
            return
        if isinstance(report, EpochRecord):
            if report.epoch <= trial.epoch:  # a retried training reports its last epoch again
                return
            trial.epoch = report.epoch
        self.reports.append((name, report))

    def _handle_death(self, process: _Process, restart: bool) -> None:
        """Retry the trial of a process that has ended, and start another process."""
        code = process.wait()
        name, process.trial = process.trial, ""
        if not restart:
            return
        if name:
            self._retry(name, process.cause or f"its process ended with exit code {code}")
        elif process.state == "starting":
            self.unfit = (
                f"one of {len(self.processes)} processes ended with exit code {code} while it "
                "started: see its message above, or train in one process"
            )
            return
        self.processes[process.index] = _Process(process.index, len(self.processes))

    def _retry(self, name: str, cause: str) -> None:
        """Train a trial again from its checkpoint, unless it has failed too often."""
        trial = self.trials.get(name)
        if trial is None:
            return
        trial.failures += 1
        most = self.resources.max_failures
        if trial.failures > most:
            times = f"failed {trial.failures} times (resources.max_failures = {most})"
            self.reports.append((name, TrialFailure(f"its process {times}: {cause}")))
            return
        self.waiting.appendleft(name)
        self.note(
            f"{name} continues from its checkpoint (failure {trial.failures} of at most {most}, "
            f"resources.max_failures): {cause}"
        )

    def _check_heartbeats(self, heartbeat_timeout_s: float) -> None:
        """Warn about processes without a heartbeat, and kill them after the timeout."""
        for process in self.processes:
            silent_s = time.monotonic() - process.last_heartbeat
            if process.state == "starting":
                if silent_s > max(heartbeat_timeout_s, START_S):
                    process.kill()
                continue
            if not process.trial:
                continue
            subject = f"{process.trial} has sent no heartbeat for"
            if silent_s > heartbeat_timeout_s:
                limit = f"{heartbeat_timeout_s:g} s (resources.heartbeat_timeout_s)"
                process.kill(f"{subject} {limit}, last at {process.activity}")
            elif silent_s > self.resources.heartbeat_warning_s and not process.warned:
                process.warned = True
                self.note(f"{subject} {silent_s:.0f} s, last at {process.activity}")


def _pickle(setup: Setup) -> bytes:
    try:
        return bytes(cloudpickle.dumps(setup))
    except (PicklingError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"the code of the run cannot be sent to other processes ({error}): train in one "
            "process, or leave out objects such as open files and locks"
        ).with_details("processes", str(error), (1, 1)) from error
