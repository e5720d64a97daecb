"""Send the queued writes to MLflow, in order, until the driver has no more of them.

An outage of MLflow causes a note; the writes stay in their files and are retried. Files have a
separate queue, so that metrics are sent even while files cannot be.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.uris import CREDENTIALS
from orchestrator.core.redact import redact
from orchestrator.tracking import _outbox
from orchestrator.tracking._client import ErrorKind, classify_error, connect, short_message
from orchestrator.tracking._outbox import FILES, OUTBOX, OutboxReader
from orchestrator.tracking._writer_messages import Compactable, Failing, Message, Note
from orchestrator.tracking._writes import CompactedWrites, LogPoints, Write

RETRY_S, LONGEST_RETRY_S = 2.0, 30.0
# Shortest interval between batches of points: 26 ms a batch, against 389 ms one by one
FLUSH_S = 1.0
POLL_S = 0.2  # interval at which the queues are read; a look at two files
QUIET_S = 600.0  # between two notes of an outage
STUBBORN = 15  # failures of one write, while the server answers, before it is set aside
REFUSED = "outbox-refused.jsonl"  # in the folder of the sweep: writes that MLflow refused
log = logging.getLogger(__name__)
Perform = Callable[[Any, Sequence[Write], bool], None]


@dataclass
class Lane:
    """A queue that is sent in order, independent of the other queue."""

    outbox: OutboxReader
    files: bool = False
    tries: int = 0
    due: float = 0.0  # time of the next retry
    flushed: float = 0.0
    alone: int = 0  # number of writes to send one by one, because one of them was refused


class Sender:
    """Loop that owns the MLflow client and sends the queued writes.

    Args:
        uri: The tracking URI.
        folder: The folder of the sweep, which holds the queues.
        perform: Callable that performs writes, given the client, the writes, and whether they may
            be repeats.
        report: Receives the messages for the driver.
        is_open: Predicate: whether the run of a write is open.
        resume: The command that sends the writes that remain.
        prepare: Prepares the last writes. It is called once, when nothing is left to send for the
            first time.
        recovered: Bytes of the two queues up to which writes may be repeats.
    """

    def __init__(
        self,
        uri: str,
        folder: Path,
        perform: Perform,
        report: Callable[[Message], None],
        is_open: Callable[[Write], bool] = lambda write: True,
        resume: str = "",
        prepare: Callable[[], None] = lambda: None,
        recovered: tuple[int, int] = (0, 0),
    ) -> None:
        self.uri, self.folder, self.perform, self.report = uri, folder, perform, report
        self.is_open, self.resume, self.prepare = is_open, resume, prepare
        self.recovered = recovered
        self.client: Any = None
        self.wake = threading.Event()
        self.closing = threading.Event()
        self.given_up = threading.Event()
        self.note_times: dict[str, float] = {}
        self.out = self.failing = False  # whether an outage, or a failure, was reported
        self.prepared = False
        self.outboxes: list[OutboxReader] = []
        self.writes: Lane  # set by `run`
        self.files: Lane

    def close(self) -> None:
        """End after the last write; no more writes are added."""
        self.closing.set()
        self.wake.set()

    def give_up(self) -> None:
        """End before the next write."""
        self.given_up.set()
        self.wake.set()

    def _open(self) -> None:
        """Open the queues; wait until no other process sends from them."""
        for name, recovered in zip((OUTBOX, FILES), self.recovered, strict=True):
            self.outboxes.append(OutboxReader(self.folder / name, recovered))
        self.writes, self.files = Lane(self.outboxes[0]), Lane(self.outboxes[1], files=True)

    def release(self) -> None:
        """Close the queues, so that another process can send from them."""
        for outbox in self.outboxes:
            outbox.close()

    def run(self) -> None:
        """Send writes until `close` or `give_up`."""
        self._open()
        while not (self.given_up.is_set() or self.closing.is_set()):
            self.wake.clear()
            if self._send_next(self.writes) | self._send_next(self.files):
                continue
            if self.client and not self.prepared:
                self.prepared = True
                self.prepare()
                continue
            self.wake.wait(POLL_S)

    def finish(self) -> None:
        """Send the last writes, after `run`; return early at `give_up`."""
        self.writes.due = self.files.due = 0.0
        while not self.given_up.is_set():
            if self._send_next(self.writes) | self._send_next(self.files):
                continue
            if not (self.writes.outbox.peek() or self.files.outbox.peek()):
                return
            self.given_up.wait(POLL_S)

    def _send_next(self, lane: Lane) -> bool:
        """Send the next writes of a queue. Return False if nothing can be sent now."""
        if self.given_up.is_set() or time.monotonic() < lane.due:
            return False
        ready = lane.outbox.peek()
        if not ready:
            return False
        # compacted writes were sent; they return after damage to line 1 of the outbox
        first = None if isinstance(ready[0][1], CompactedWrites) else ready[0][1]
        if lane.files and first and self._must_wait(first):
            return False
        group = 1
        if not lane.alone and isinstance(first, LogPoints):
            kinds = [isinstance(write, LogPoints) for _, write in ready]
            recent = time.monotonic() - lane.flushed < FLUSH_S
            if all(kinds) and recent and not self.closing.is_set():
                return False
            group = [*kinds, False].index(False)
        end = ready[group - 1][0]
        writes = [
            write for _, write in ready[:group] if write and not isinstance(write, CompactedWrites)
        ]
        if any(write is None for _, write in ready[:group]):
            damaged = (
                f"{lane.outbox.file} has damaged lines: they are skipped, and the other "
                f"lines are sent"
            )
            self._notify_once("damaged", damaged, pending=False)
        try:
            if writes:
                self.client = self.client or connect(self.uri)
                again = lane.tries > 0 or ready[0][0] <= lane.outbox.recovered
                self.perform(self.client, writes, again)
        except Exception as error:  # MLflow raises errors of its store, server or network
            self._failed(lane, end, writes, error)
            return not lane.tries
        lane.tries, lane.alone, lane.flushed = 0, max(lane.alone - 1, 0), time.monotonic()
        self._done(lane, end)
        return True

    def _must_wait(self, first: Write) -> bool:
        """Return whether files wait for the other queue: it fails, or will open their run."""
        if self.writes.tries:
            return True
        return not self.is_open(first) and bool(self.writes.outbox.peek())

    def _done(self, lane: Lane, end: int) -> None:
        self._acknowledge(lane, end)
        self._report_failing()
        if self.out and not lane.files:
            self.out = False
            self._note(
                f"MLflow at {self.shown} answers again: the queued writes are sent", pending=True
            )

    def _acknowledge(self, lane: Lane, end: int) -> None:
        lane.outbox.sent(end)
        if end > _outbox.LARGE and not lane.outbox.peek():
            self.report(Compactable(files=lane.files))

    def _report_failing(self) -> None:
        failing = bool(self.writes.tries or self.files.tries)
        if failing != self.failing:
            self.failing = failing
            self.report(Failing(failing=failing))

    def _failed(self, lane: Lane, end: int, writes: list[Write], error: Exception) -> None:
        kind = classify_error(error)
        lane.tries += 1
        stubborn = kind == "away" and lane.tries >= STUBBORN and not lane.files
        if self.client is not None and (kind == "refused" or stubborn) and self._is_reachable():
            lane.tries, lane.alone = 0, len(writes)
            if len(writes) == 1:
                self._set_aside(lane, end, writes[0], error)
            return
        longest = RETRY_S if self.closing.is_set() else LONGEST_RETRY_S
        lane.due = time.monotonic() + min(RETRY_S * 2 ** min(lane.tries - 1, 10), longest)
        self._explain(lane, kind, error)
        self._report_failing()  # the driver may end this process at once

    def _is_reachable(self) -> bool:
        """Return whether MLflow answers requests at all.

        If not, an error does not concern the write.
        """
        try:
            self.client.search_experiments(max_results=1)
        except Exception:  # no error counts as an answer
            return False
        return True

    def _set_aside(self, lane: Lane, end: int, write: Write, error: Exception) -> None:
        """Remove a write that MLflow refuses permanently, so that the others continue."""
        lane.alone = 0
        try:
            with open(
                os.open(self.folder / REFUSED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a"
            ) as file:
                file.write(
                    json.dumps({"error": short_message(error), "write": write.plain()}) + "\n"
                )
        except OSError as full:
            log.debug("%s cannot be written: %s", REFUSED, full)
        self._acknowledge(lane, end)
        self._notify_once(
            "refused",
            f"MLflow at {self.shown} refuses a write ({short_message(error)}): the write is "
            f"skipped, see {self.folder / REFUSED}",
            pending=False,
        )

    def _explain(self, lane: Lane, kind: ErrorKind, error: Exception) -> None:
        """Report each outage once, and a new outage after `QUIET_S` at the earliest."""
        if kind == "denied":
            self._notify_once(
                "denied",
                f"MLflow at {self.shown} refuses the credentials ({short_message(error)}): export "
                f"{CREDENTIALS}; trials continue, and the writes are queued for the next "
                f"`{self.resume}`",
            )
        elif lane.files:
            self._notify_once(
                "files",
                f"files cannot be sent to MLflow at {self.shown} ({short_message(error)}): they "
                f"are queued, and metrics are still sent",
            )
        elif not self.out:
            self.out = self._notify_once(
                "away",
                f"MLflow at {self.shown} cannot be written to ({short_message(error)}): trials "
                f"continue, and the writes are queued",
            )

    @property
    def shown(self) -> str:
        """Return the address without secrets, for printing."""
        return redact(self.uri)

    def _notify_once(self, what: str, text: str, pending: bool = True) -> bool:
        last = self.note_times.get(what)
        if last is not None and (what != "away" or time.monotonic() - last < QUIET_S):
            return False
        self.note_times[what] = time.monotonic()
        self._note(text, pending)
        return True

    def _note(self, text: str, pending: bool) -> None:
        self.report(Note(text=text, pending=pending))
