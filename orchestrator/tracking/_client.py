"""Writes to MLflow from a thread of its own: handing over returns at once, an outage costs a note and never a trial.

What could not be sent stays in order in a file, and is tried again until the end of the run, and at the next resume. Files have a
queue of their own: where they alone cannot be sent, metrics go on. Knows no kind of write.
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
from orchestrator.tracking._outbox import Outbox, Write
from orchestrator.tracking.overrides import switch_off
from orchestrator.tracking.schema import create_schema

RETRY_S, LONGEST_RETRY_S = 2.0, 30.0
FLUSH_S = 1.0  # points alone are sent together at most so often: 26 ms a batch against 389 ms one by one
DRAIN_S, STALL_S = 120.0, 10.0  # without a write that succeeded: the longest wait at a normal end, and where writes have failed
INTERRUPTED_S, INTERRUPTED_STALL_S = 10.0, 3.0  # the same where somebody wants the end
NOTICE_S = 5.0  # of waiting at the end, after which that is said
QUIET_S = 600.0  # between two notes of an outage
STUBBORN = 15  # failures of one write, while the server does answer, after which it is set aside
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # MLflow would try for minutes
OUTBOX, FILES = "outbox.jsonl", "outbox-files.jsonl"  # in the folder of the sweep
REFUSED = "outbox-refused.jsonl"  # beside the queues: what MLflow does not take, for a person to look at
REASON = re.compile(r"\[Errno -?\d+\] [^'\")>]+|timed out|too many \d+ error responses|certificate verify failed[^'\")>]*")
log = logging.getLogger(__name__)
Perform = Callable[[Any, Sequence[Write], bool], None]
Verdict = Literal["away", "denied", "refused"]


@dataclass
class Lane:
    """A queue that is sent in order, whatever becomes of the other one."""

    outbox: Outbox
    files: bool = False
    tries: int = 0
    due: float = 0.0  # when it is tried again
    flushed: float = 0.0
    alone: int = 0  # so many writes are sent one by one, because one of them was refused


class Writer:
    """One thread that owns the MLflow client.

    It begins with `begin`: importing MLflow and making its database take four CPU seconds, which the start of the worker groups
    needs more. `perform` does writes; `knows` says whether the run of a write was opened; `resume` is the command that sends what
    is left. `say` gets notes, `say_pending` those that hold until everything is sent, which `settled` tells; from any thread.
    """

    def __init__(
        self, uri: str, folder: Path, perform: Perform, knows: Callable[[Write], bool] = lambda write: True, resume: str = ""
    ) -> None:
        self.uri, self.perform, self.knows = uri, perform, knows
        self.resume = resume or f"sweep --resume {folder.name}"
        self.say: Callable[[str], None] = log.warning
        self.say_pending: Callable[[str], None] = lambda text: self.say(text)
        self.settled: Callable[[], None] = lambda: None
        self.folder = folder
        self.writes, self.files = Lane(Outbox(folder / OUTBOX)), Lane(Outbox(folder / FILES), files=True)
        self.client: Any = None
        self.wake, self.closing, self.given_up = threading.Event(), threading.Event(), threading.Event()
        self.progress = time.monotonic()
        self.said: dict[str, float] = {}
        self.out = False  # whether an outage was said
        self.thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self.started = False

    @property
    def told(self) -> dict[str, dict[str, Any]]:
        """What all writes together say of each run."""
        return self.writes.outbox.told

    @property
    def unsent(self) -> int:
        """Writes that MLflow does not have."""
        return self.writes.outbox.unsent + self.files.outbox.unsent

    def begin(self) -> None:
        """Send from now on; what was handed over before comes first."""
        if not self.started:
            self.started = True
            self.thread.start()

    def add(self, write: Write, files: bool = False) -> None:
        """Hand over a write: plain JSON. From now on it is not lost."""
        (self.files if files else self.writes).outbox.append(write)
        self.wake.set()

    def close(self, hurried: bool = False, timeout: float | None = None) -> int:
        """Wait until everything is sent, for a bounded time (s); how many writes stay for a resume.

        `hurried`: somebody wants the end, so an MLflow that does not answer is left alone after a few seconds.
        """
        longest, stall = (INTERRUPTED_S, INTERRUPTED_STALL_S) if hurried else (DRAIN_S, STALL_S)
        longest = longest if timeout is None else timeout
        began = self.progress = time.monotonic()
        if self.unsent:
            self.begin()
        self.writes.due = self.files.due = 0.0
        calm()  # Ray's end puts the environment back as it was at its start
        self.closing.set()
        self.wake.set()
        noticed = False
        while self.started and self.thread.is_alive():
            self.thread.join(0.05)
            now = time.monotonic()
            failing = bool(self.writes.tries or self.files.tries) and now - self.progress > stall
            if failing or now - self.progress > longest or (timeout is not None and now - began > timeout):
                break
            if not noticed and now - began > NOTICE_S:
                noticed = True
                self.say_pending(f"waiting for MLflow: {self.unsent} writes unsent")
        self.given_up.set()
        self.wake.set()
        unsent = self.writes.outbox.close() + self.files.outbox.close()
        if unsent:
            self.say_pending(f"{unsent} writes to MLflow were not sent: they are sent with the next `{self.resume}`")
        else:
            self.settled()
        return unsent

    def _run(self) -> None:
        while not self.given_up.is_set():
            self.wake.clear()
            if self._serve(self.writes) | self._serve(self.files):
                continue
            if self.closing.is_set() and not self.unsent:
                return
            now = time.monotonic()
            times = [lane.due - now for lane in (self.writes, self.files) if lane.tries]
            times += [self.writes.flushed + FLUSH_S - now] if self.writes.outbox.unsent and not self.writes.tries else []
            self.wake.wait(max(min(times), 0.01) if times else None)

    def _serve(self, lane: Lane) -> bool:
        """Send what comes next in a queue; False when there is nothing to send now."""
        if self.given_up.is_set() or time.monotonic() < lane.due:
            return False
        ready = lane.outbox.peek()
        if not ready:
            return False
        first = ready[0][1]
        if lane.files and (self.writes.tries or (first and self.writes.outbox.unsent and not self.knows(first))):
            return False
        group = 1
        if not lane.alone and first and first["do"] == "points":
            kinds = [write is not None and write["do"] == "points" for _, write in ready]
            if all(kinds) and time.monotonic() - lane.flushed < FLUSH_S and not self.closing.is_set():
                return False
            group = [*kinds, False].index(False)
        end, writes = ready[group - 1][0], [write for _, write in ready[:group] if write]
        if len(writes) < group:
            damaged = f"{lane.outbox.file} has lines that are damaged: they are left out, and the others are sent"
            self._say_once(self.say, "damaged", damaged)
        try:
            if writes:
                self.client = self.client or connect(self.uri)
                self.perform(self.client, writes, lane.tries > 0 or ready[0][0] <= lane.outbox.recovered)
        except Exception as error:  # MLflow raises what its store, its server or the network raise
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
            self.say_pending(f"MLflow at {self.shown} answers again: what was kept is sent")

    def _failed(self, lane: Lane, end: int, writes: list[Write], error: Exception) -> None:
        found = verdict(error)
        lane.tries += 1
        stubborn = found == "away" and lane.tries >= STUBBORN and not lane.files
        if self.client is not None and (found == "refused" or stubborn) and self._answers():
            lane.tries, lane.alone = 0, len(writes)
            if len(writes) == 1:
                self._set_aside(lane, end, writes[0], error)
            return
        longest = RETRY_S if self.closing.is_set() else LONGEST_RETRY_S
        lane.due = time.monotonic() + min(RETRY_S * 2 ** min(lane.tries - 1, 10), longest)
        self._explain(lane, found, error)

    def _answers(self) -> bool:
        """Whether MLflow takes questions at all: else an error says nothing of the write."""
        try:
            self.client.search_experiments(max_results=1)
        except Exception:  # whatever it is, it is not an answer
            return False
        return True

    def _set_aside(self, lane: Lane, end: int, write: Write, error: Exception) -> None:
        """MLflow does not take this write and would not later: the others go on."""
        lane.alone = 0
        try:
            with open(os.open(self.folder / REFUSED, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
                file.write(json.dumps({"error": short(error), "write": write}) + "\n")
        except OSError as full:
            log.debug("%s cannot be written: %s", REFUSED, full)
        lane.outbox.sent(end, 1)
        self._say_once(
            self.say,
            "refused",
            f"MLflow at {self.shown} does not take what is written ({short(error)}): this is left out, see {self.folder / REFUSED}",
        )

    def _explain(self, lane: Lane, found: Verdict, error: Exception) -> None:
        """Say an outage once; an hour of it is one line."""
        if found == "denied":
            self._say_once(
                self.say_pending,
                "denied",
                f"MLflow at {self.shown} refuses the credentials ({short(error)}): export {CREDENTIALS}; trials go on, and what is "
                f"written is kept for the next `{self.resume}`",
            )
        elif lane.files:
            self._say_once(
                self.say_pending,
                "files",
                f"files cannot be sent to MLflow at {self.shown} ({short(error)}): they are kept, and metrics go on",
            )
        elif not self.out:
            self.out = self._say_once(
                self.say_pending,
                "away",
                f"MLflow at {self.shown} cannot be written to ({short(error)}): trials go on, and what is written is kept",
            )

    @property
    def shown(self) -> str:
        """The address as it may be printed."""
        return redact(self.uri)

    def _say_once(self, say: Callable[[str], None], what: str, text: str) -> bool:
        last = self.said.get(what)
        if last is not None and (what != "away" or time.monotonic() - last < QUIET_S):
            return False
        self.said[what] = time.monotonic()
        say(text)
        return True


def status_of(error: Exception) -> int | None:
    """The HTTP status that an error stands for; None where it has none. A path that nobody serves is a server that is away."""
    if getattr(error, "error_code", None) == "ENDPOINT_NOT_FOUND":
        return 503
    status = getattr(error, "get_http_status_code", None)
    if status is not None:
        return int(status())
    found = getattr(getattr(error, "response", None), "status_code", None)
    return int(found) if found is not None else None


def verdict(error: Exception) -> Verdict:
    """away: the same write can succeed later; denied: with other credentials; refused: what is refused is refused again."""
    status = status_of(error)
    if status in (401, 403):
        return "denied"
    if status is None:
        return "away" if isinstance(error, OSError | UserError) else "refused"
    return "away" if status >= 500 or status in (408, 429) else "refused"


def short(error: Exception) -> str:
    """What an error says, in one line that may be printed; of a request that failed the reason alone."""
    said = redact(" ".join(str(error).split())) or type(error).__name__
    if isinstance(error, UserError):
        return said  # with a command to copy
    reason = REASON.search(said) if "API request" in said else None
    return reason[0] if reason else said[:200]


def calm() -> None:
    """Set what MLflow reads of the environment whenever it does something; what the user has set stays, if it loses no writes."""
    for name, value in (PATIENCE | QUIET).items():
        os.environ.setdefault(name, value)
    switch_off()


def connect(uri: str) -> Any:
    """A client of MLflow that says only what went wrong, and gives up soon unless the environment says otherwise.

    Runs and registered models are those at `uri`, whatever the environment names. PreflightError when that is a file of
    SQLite which the installed MLflow cannot use.
    """
    calm()
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):  # which tell of each attempt
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # whole statements: the writer says it in a line
    if file := database_file(uri):
        create_schema(file.absolute(), file.absolute().parent / "artifacts")
        uri = database_uri(file.absolute())
    return MlflowClient(tracking_uri=uri, registry_uri=uri)
