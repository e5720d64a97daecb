"""Queue writes to MLflow on disk, and let a process of their own send them.

Adding a write returns at once. An outage of MLflow, or a death of the process, causes a note and
never fails a trial. Unsent writes stay in their files until the next resume.
"""

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import cloudpickle

from orchestrator.cluster.descendants import exempt
from orchestrator.core.child_process import start_child
from orchestrator.core.errors import short_reason
from orchestrator.core.program import program_name
from orchestrator.core.redact import redact
from orchestrator.extensions.shipping import pack_code
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.tracking._outbox import FILES, OUTBOX, Outbox
from orchestrator.tracking._writer_messages import (
    Close,
    Compactable,
    Failing,
    Message,
    Note,
    Setup,
    decode,
    encode,
)
from orchestrator.tracking._writes import RunProgress, Write

# Longest wait without a successful write: at a normal end, and after a failed write
DRAIN_S, STALL_S = 120.0, 10.0
INTERRUPTED_S, INTERRUPTED_STALL_S = 10.0, 3.0  # the same after an interruption
NOTICE_S = 5.0  # of waiting at the end, after which a note is sent
STARTS = 5  # of the process in a run
RESTART_S = 2.0  # before the second start; doubled for each further one
KILL_S = 5.0  # for the end of a process after SIGKILL
MODULE = "orchestrator.tracking._writer_process"
log = logging.getLogger(__name__)


class Peer(Protocol):
    """Process that sends the writes, as seen from the driver."""

    connection: Connection

    def kill(self) -> None:
        """End it at once."""

    def wait(self) -> str:
        """Wait until it has ended; return why it failed, "" if it did not."""


class WriterProcess:
    """Process that sends the writes; it ends at the latest with this one."""

    def __init__(self) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `wait`
        self.process, self.connection = start_child(
            MODULE, str(os.getpid()), stdout=subprocess.DEVNULL, stderr=self.errors
        )
        exempt(self.process.pid)  # the end of Ray leaves it alone

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()

    def wait(self) -> str:
        """Wait until the process has ended; return why it failed, "" if it did not."""
        self.connection.close()
        try:
            code = self.process.wait(KILL_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        with self.errors:
            self.errors.seek(0)
            lines = self.errors.read().decode(errors="replace").strip().splitlines()
        if not code:
            return ""
        return f"signal {-code}" if code < 0 else redact((lines or [f"exit code {code}"])[-1])[:300]


def start_process() -> Peer:
    """Start the process that sends the writes. Raise OSError if the machine refuses it."""
    return WriterProcess()


def make_writer(
    store: Store, sweep: Sweep, uri: str, classes: Sequence[str], registers_model: bool
) -> "Writer":
    """Return the writer of a sweep.

    Args:
        store: The store of the sweep.
        sweep: The sweep.
        uri: The tracking URI.
        classes: The names of the classes.
        registers_model: Whether the sweep registers a model at its end.
    """
    code, objects = pack_code(), b""
    if code.objects:
        # without them the student of a notebook's class is not registered
        with contextlib.suppress(Exception):  # pickling runs code of the user
            objects = cloudpickle.dumps(code.objects)
    setup = Setup(
        root=str(store.root),
        store_uri=store.uri,
        folder=str(sweep.folder),
        record=sweep.text(),
        uri=uri,
        classes=list(classes),
        sources=dict(code.sources),
        plugins=list(code.plugins),
        has_objects=bool(objects),
        registers_model=registers_model,
        program=sys.argv[0],
        resume=f"{program_name()} sweep --resume {sweep.name}{store.option}",
    )
    return Writer(sweep.folder, setup, objects)


class Writer:
    """Queues of writes, and the process that sends them.

    `begin` starts the process, from a thread that also receives its messages. It is separate from
    the constructor because importing MLflow and creating its database takes four CPU seconds.

    Three callbacks may be called from any thread. `notify` receives notes. `notify_pending`
    receives notes that hold until everything is sent. `settled` is called when everything is sent.

    Args:
        folder: The folder of the sweep, which holds the queues.
        setup: What the process needs to know.
        objects: The registered objects of a notebook by cloudpickle, if `setup` announces them.
    """

    def __init__(self, folder: Path, setup: Setup, objects: bytes = b"") -> None:
        self.setup, self.objects = setup, objects
        self.notify: Callable[[str], None] = log.warning
        self.notify_pending: Callable[[str], None] = lambda text: self.notify(text)
        self.settled: Callable[[], None] = lambda: None
        self.writes, self.files = Outbox(folder / OUTBOX), Outbox(folder / FILES)
        self.thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self.started = self.failing = False
        self.given_up = threading.Event()
        self.complete = False  # whether no write follows, and all are in the files
        self.lock = threading.Lock()
        self.process: Peer | None = None

    @property
    def run_progress(self) -> dict[str, RunProgress]:
        """Return the progress of each run, by run key, after all queued writes."""
        return self.writes.run_progress

    @property
    def unsent(self) -> int:
        """Return the number of writes that MLflow does not have."""
        return self.writes.unsent + self.files.unsent

    def begin(self) -> None:
        """Start sending, unless it has started; writes that were added earlier are sent first."""
        if not self.started:
            self.started = True
            self.thread.start()

    def add(self, write: Write, files: bool = False) -> None:
        """Append a write to its queue. From then on a kill does not lose it."""
        (self.files if files else self.writes).append(write)

    def close(self, hurried: bool = False, timeout: float | None = None) -> int:
        """Wait a bounded time until everything is sent, and end the process.

        Args:
            hurried: Wait only a few seconds for an MLflow that does not answer, after an
                interruption.
            timeout: The longest wait in seconds; None for the default.

        Returns:
            The number of unsent writes, which a resume sends.
        """
        longest, stall = (INTERRUPTED_S, INTERRUPTED_STALL_S) if hurried else (DRAIN_S, STALL_S)
        try:
            if self.started or self.unsent:
                self.begin()
                self._wait(longest if timeout is None else timeout, stall, timeout)
        finally:
            self._end_process()
        unsent = self.writes.close() + self.files.close()
        if unsent:
            self.notify_pending(
                f"{unsent} writes to MLflow were not sent: run `{self.setup.resume}` to send them"
            )
        else:
            self.settled()
        return unsent

    def _wait(self, longest: float, stall: float, timeout: float | None) -> None:
        began = progress = time.monotonic()
        marks, noticed = (0, 0), False
        while self.thread.is_alive():
            self._announce_end()
            self.thread.join(0.05)
            now, before, marks = time.monotonic(), marks, (self.writes.mark, self.files.mark)
            if marks != before:
                progress = now
            if (
                (self.failing and now - progress > stall)
                or now - progress > longest
                or (timeout is not None and now - began > timeout)
            ):
                return
            if not noticed and now - began > NOTICE_S:
                noticed = True
                self.notify_pending(f"waiting for MLflow: {self.unsent} writes unsent")

    def _announce_end(self) -> None:
        """Send the process its last message, once the disk has room for all writes."""
        if self.complete or not (self.writes.flush() and self.files.flush()):
            return
        with self.lock:
            self.complete = True
            if self.process:
                _send(self.process, Close())

    def _end_process(self) -> None:
        """End the process at once if it still runs: a resume repeats the write in progress."""
        self.given_up.set()
        with self.lock:
            if self.process:
                self.process.kill()
        if self.started:
            self.thread.join(2 * KILL_S)

    def _run(self) -> None:
        reason = ""
        for start in range(STARTS):
            if start:
                self.notify(
                    f"the process that writes to MLflow has ended ({reason}): it is started "
                    f"again, and the writes stay queued"
                )
                self.given_up.wait(0.0 if self.complete else RESTART_S * 2 ** (start - 1))
            if self.given_up.is_set():
                return
            try:
                reason = self._supervise(start_process())
            except Exception as error:  # a callback may raise any error; it must not end the writes
                reason = short_reason(error)
            if not reason or self.given_up.is_set():
                return
        self.notify_pending(
            f"the process that writes to MLflow has ended {STARTS} times ({reason}): trials "
            f"continue, and the writes are queued for `{self.setup.resume}`"
        )

    def _supervise(self, process: Peer) -> str:
        """Receive the messages of a process until its end; return why it failed, or ""."""
        recovered = (self.writes.recovered, self.files.recovered)
        _send(process, replace(self.setup, recovered=recovered))
        if self.setup.has_objects:
            with contextlib.suppress(OSError):
                process.connection.send_bytes(self.objects)
        with self.lock:
            self.process = process
            if self.given_up.is_set():
                process.kill()
            elif self.complete:
                _send(process, Close())
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._handle(decode(process.connection.recv_bytes()))
        with self.lock:
            self.process, self.failing = None, False
        reason = process.wait()
        # the next process may repeat what this one did
        self.writes.recovered, self.files.recovered = self.writes.size, self.files.size
        return reason

    def _handle(self, message: Message) -> None:
        if isinstance(message, Note):
            (self.notify_pending if message.pending else self.notify)(message.text)
        elif isinstance(message, Failing):
            self.failing = message.failing
        elif isinstance(message, Compactable):
            (self.files if message.files else self.writes).compact()


def _send(process: Peer, message: Message) -> None:
    with contextlib.suppress(OSError):  # it has died, which the thread notices
        process.connection.send_bytes(encode(message))
