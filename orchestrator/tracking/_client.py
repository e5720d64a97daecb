"""Write to MLflow from a dedicated thread, through a queue on disk.

Adding a write returns at once. An outage of MLflow causes a note and never fails a trial.

Unsent writes stay in a file, in order. They are retried until the end of the run, and at the next
resume. Files have a separate queue, so that metrics are sent even while files cannot be.
"""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.config.uris import CREDENTIALS, database_file, database_uri
from orchestrator.core.errors import UserError
from orchestrator.core.redact import redact
from orchestrator.tracking._outbox import Outbox
from orchestrator.tracking._writes import CompactedWrites, LogPoints, RunProgress, Write
from orchestrator.tracking.overrides import switch_off
from orchestrator.tracking.schema import create_schema

RETRY_S, LONGEST_RETRY_S = 2.0, 30.0
# Shortest interval between batches of points: 26 ms a batch, against 389 ms one by one
FLUSH_S = 1.0
# Longest wait without a successful write: at a normal end, and after a failed write
DRAIN_S, STALL_S = 120.0, 10.0
INTERRUPTED_S, INTERRUPTED_STALL_S = 10.0, 3.0  # the same after an interruption
NOTICE_S = 5.0  # of waiting at the end, after which a note is sent
QUIET_S = 600.0  # between two notes of an outage
STUBBORN = 15  # failures of one write, while the server answers, before it is set aside
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# MLflow's defaults retry for minutes
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
OUTBOX, FILES = "outbox.jsonl", "outbox-files.jsonl"  # in the folder of the sweep
REFUSED = "outbox-refused.jsonl"  # in the same folder: writes that MLflow refused, for inspection
REASON = re.compile(
    r"\[Errno -?\d+\] [^'\")>]+|timed out|too many \d+ error responses|certificate verify "
    r"failed[^'\")>]*"
)
log = logging.getLogger(__name__)
Perform = Callable[[Any, Sequence[Write], bool], None]
ErrorKind = Literal["away", "denied", "refused"]


@dataclass
class Lane:
    """A queue that is sent in order, independent of the other queue."""

    outbox: Outbox
    files: bool = False
    tries: int = 0
    due: float = 0.0  # time of the next retry
    flushed: float = 0.0
    alone: int = 0  # number of writes to send one by one, because one of them was refused


class Writer:
    """The thread that owns the MLflow client and sends the queued writes.

    `begin` starts the thread. It is separate from the constructor because importing MLflow and
    creating its database takes four CPU seconds, which would delay the start of the worker groups.

    Three callbacks may be called from any thread. `notify` receives notes. `notify_pending`
    receives notes that hold until everything is sent. `settled` is called when everything is sent.

    Args:
        uri: The tracking URI.
        folder: The folder of the sweep, which holds the queues.
        perform: Callable that performs writes, given the client, the writes, and whether they may
            be repeats.
        is_open: Predicate: whether the run of a write is open.
        resume: The command that sends the writes that remain.
        prepare: Prepares the last writes. It is called once in the thread, when nothing is left to
            send for the first time.
    """

    def __init__(
        self,
        uri: str,
        folder: Path,
        perform: Perform,
        is_open: Callable[[Write], bool] = lambda write: True,
        resume: str = "",
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        self.uri, self.perform, self.is_open = uri, perform, is_open
        self.prepare = prepare
        self.resume = resume or f"sweep --resume {folder.name}"
        self.notify: Callable[[str], None] = log.warning
        self.notify_pending: Callable[[str], None] = lambda text: self.notify(text)
        self.settled: Callable[[], None] = lambda: None
        self.folder = folder
        self.writes = Lane(Outbox(folder / OUTBOX))
        self.files = Lane(Outbox(folder / FILES), files=True)
        self.client: Any = None
        self.wake = threading.Event()
        self.closing = threading.Event()
        self.given_up = threading.Event()
        self.progress = time.monotonic()
        self.note_times: dict[str, float] = {}
        self.out = False  # whether an outage was reported
        self.thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self.started = False
        self.begin_delay_s = 0.0
        self.hurry = threading.Event()  # ends the delay

    @property
    def run_progress(self) -> dict[str, RunProgress]:
        """Return the progress of each run, by run key, after all queued writes."""
        return self.writes.outbox.run_progress

    @property
    def unsent(self) -> int:
        """Return the number of writes that MLflow does not have."""
        return self.writes.outbox.unsent + self.files.outbox.unsent

    def begin(self, delay_s: float = 0.0) -> None:
        """Start sending, after a delay if no call without one comes first.

        Writes that were added earlier are sent first.
        """
        if not delay_s:
            self.hurry.set()
        if not self.started:
            self.started, self.begin_delay_s = True, delay_s
            self.thread.start()

    def add(self, write: Write, files: bool = False) -> None:
        """Append a write to its queue. From then on a kill does not lose it."""
        (self.files if files else self.writes).outbox.append(write)
        self.wake.set()

    def close(self, hurried: bool = False, timeout: float | None = None) -> int:
        """Wait a bounded time until everything is sent.

        Args:
            hurried: Wait only a few seconds for an MLflow that does not answer, after an
                interruption.
            timeout: The longest wait in seconds; None for the default.

        Returns:
            The number of unsent writes, which a resume sends.
        """
        longest, stall = (INTERRUPTED_S, INTERRUPTED_STALL_S) if hurried else (DRAIN_S, STALL_S)
        longest = longest if timeout is None else timeout
        began = self.progress = time.monotonic()
        if self.unsent or self.started:
            self.begin()
        self.writes.due = self.files.due = 0.0
        set_mlflow_defaults()  # Ray's shutdown restores the environment of its start
        self.closing.set()
        self.wake.set()
        noticed = False
        while self.started and self.thread.is_alive():
            self.thread.join(0.05)
            now = time.monotonic()
            failing = bool(self.writes.tries or self.files.tries) and now - self.progress > stall
            if (
                failing
                or now - self.progress > longest
                or (timeout is not None and now - began > timeout)
            ):
                break
            if not noticed and now - began > NOTICE_S:
                noticed = True
                self.notify_pending(f"waiting for MLflow: {self.unsent} writes unsent")
        self.given_up.set()
        self.wake.set()
        unsent = self.writes.outbox.close() + self.files.outbox.close()
        if unsent:
            self.notify_pending(
                f"{unsent} writes to MLflow were not sent: run `{self.resume}` to send them"
            )
        else:
            self.settled()
        return unsent

    def _run(self) -> None:
        self.hurry.wait(self.begin_delay_s)
        prepared = False
        while not self.given_up.is_set():
            self.wake.clear()
            if self._send_next(self.writes) | self._send_next(self.files):
                continue
            if self.closing.is_set() and not self.unsent:
                return
            if self.client and not (prepared or self.closing.is_set()):
                prepared = True
                self.prepare()
                continue
            now = time.monotonic()
            times = [lane.due - now for lane in (self.writes, self.files) if lane.tries]
            times += (
                [self.writes.flushed + FLUSH_S - now]
                if self.writes.outbox.unsent and not self.writes.tries
                else []
            )
            self.wake.wait(max(min(times), 0.01) if times else None)

    def _send_next(self, lane: Lane) -> bool:
        """Send the next writes of a queue. Return False if nothing can be sent now."""
        if self.given_up.is_set() or time.monotonic() < lane.due:
            return False
        ready = lane.outbox.peek()
        if not ready:
            return False
        # compacted writes were sent; they return after damage to line 1 of the outbox
        first = None if isinstance(ready[0][1], CompactedWrites) else ready[0][1]
        if lane.files and (
            self.writes.tries or (first and self.writes.outbox.unsent and not self.is_open(first))
        ):
            return False
        group = 1
        if not lane.alone and isinstance(first, LogPoints):
            kinds = [isinstance(write, LogPoints) for _, write in ready]
            if (
                all(kinds)
                and time.monotonic() - lane.flushed < FLUSH_S
                and not self.closing.is_set()
            ):
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
            self._notify_once(self.notify, "damaged", damaged)
        try:
            if writes:
                self.client = self.client or connect(self.uri)
                self.perform(
                    self.client, writes, lane.tries > 0 or ready[0][0] <= lane.outbox.recovered
                )
        except Exception as error:  # MLflow raises errors of its store, server or network
            self._failed(lane, end, writes, error)
            return not lane.tries
        lane.tries, lane.alone, lane.flushed = 0, max(lane.alone - 1, 0), time.monotonic()
        self._done(lane, end, group)
        return True

    def _done(self, lane: Lane, end: int, writes: int) -> None:
        lane.outbox.sent(end, writes)
        self.progress = time.monotonic()
        if self.out and not lane.files:
            self.out = False
            self.notify_pending(f"MLflow at {self.shown} answers again: the queued writes are sent")

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
        lane.outbox.sent(end, 1)
        self._notify_once(
            self.notify,
            "refused",
            f"MLflow at {self.shown} refuses a write ({short_message(error)}): the write is "
            f"skipped, see {self.folder / REFUSED}",
        )

    def _explain(self, lane: Lane, kind: ErrorKind, error: Exception) -> None:
        """Report each outage once, and a new outage after `QUIET_S` at the earliest."""
        if kind == "denied":
            self._notify_once(
                self.notify_pending,
                "denied",
                f"MLflow at {self.shown} refuses the credentials ({short_message(error)}): export "
                f"{CREDENTIALS}; trials continue, and the writes are queued for the next "
                f"`{self.resume}`",
            )
        elif lane.files:
            self._notify_once(
                self.notify_pending,
                "files",
                f"files cannot be sent to MLflow at {self.shown} ({short_message(error)}): they "
                f"are queued, and metrics are still sent",
            )
        elif not self.out:
            self.out = self._notify_once(
                self.notify_pending,
                "away",
                f"MLflow at {self.shown} cannot be written to ({short_message(error)}): trials "
                f"continue, and the writes are queued",
            )

    @property
    def shown(self) -> str:
        """Return the address without secrets, for printing."""
        return redact(self.uri)

    def _notify_once(self, notify: Callable[[str], None], what: str, text: str) -> bool:
        last = self.note_times.get(what)
        if last is not None and (what != "away" or time.monotonic() - last < QUIET_S):
            return False
        self.note_times[what] = time.monotonic()
        notify(text)
        return True


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of an error, or None if it has none.

    A path that the server does not have (ENDPOINT_NOT_FOUND) counts as a server that is away (503).
    """
    if getattr(error, "error_code", None) == "ENDPOINT_NOT_FOUND":
        return 503
    status = getattr(error, "get_http_status_code", None)
    if status is not None:
        return int(status())
    status = getattr(getattr(error, "response", None), "status_code", None)
    return int(status) if status is not None else None


def classify_error(error: Exception) -> ErrorKind:
    """Classify the error of a write.

    Returns:
        "away" if a retry may succeed, "denied" if other credentials are needed, "refused" if a
        retry cannot succeed.
    """
    status = status_of(error)
    if status in (401, 403):
        return "denied"
    if status is None:
        return "away" if isinstance(error, OSError | UserError) else "refused"
    return "away" if status >= 500 or status in (408, 429) else "refused"


def short_message(error: Exception) -> str:
    """Return the message of an error in one printable line; of a failed request only the reason."""
    message = redact(" ".join(str(error).split())) or type(error).__name__
    if isinstance(error, UserError):
        return message  # it contains a command to copy
    reason = REASON.search(message) if "API request" in message else None
    return reason[0] if reason else message[:200]


def set_mlflow_defaults() -> None:
    """Set the environment variables that MLflow reads on each call.

    Values of the user stay, unless they would lose writes.
    """
    for name, value in (PATIENCE | QUIET).items():
        os.environ.setdefault(name, value)
    switch_off()


def connect(uri: str) -> Any:
    """Return an MLflow client that logs errors only and gives up early.

    Runs and registered models are those at `uri`, whatever the environment names. The environment
    can set other retries and timeouts.

    Raises:
        PreflightError: `uri` is a SQLite file that the installed MLflow cannot use.
    """
    set_mlflow_defaults()
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):  # these log every attempt
        logging.getLogger(name).setLevel(logging.ERROR)
    # This logger prints whole statements; the writer reports the error in one line
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    if file := database_file(uri):
        create_schema(file.absolute(), file.absolute().parent / "artifacts")
        uri = database_uri(file.absolute())
    return MlflowClient(tracking_uri=uri, registry_uri=uri)
