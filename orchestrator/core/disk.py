"""Check free disk space, and retry writes while a disk is full.

A reserve stays free of large files, so that small records can always be completed.
"""

import errno
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from orchestrator.core.errors import PreflightError
from orchestrator.core.signals import remaining_timeout

if TYPE_CHECKING:
    from orchestrator.core.context import TrialContext

RESERVE_BYTES = 16 * 2**20
POLL_S = 1.0
# A quota may be exceeded although the file system shows free space.
FULL = (errno.ENOSPC, errno.EDQUOT)
# Messages of safetensors and of NumPy.
WORDS = re.compile(rf"\(os error ({FULL[0]}|{FULL[1]})\)|Not enough free space to write")
Note = Callable[[str], None]
T = TypeVar("T")


class _Process:
    """Shared state of this process's writers: the message handler and the disks reported full."""

    def __init__(self) -> None:
        self.note: Note = lambda text: None
        self.reported: set[int] = set()


_process = _Process()


@contextmanager
def report_waits(note: Note) -> Iterator[None]:
    """Send the messages about pauses of this process to `note` within the block.

    Writers that have a handler of their own are excepted.
    """
    before, _process.note = _process.note, note
    try:
        yield
    finally:
        _process.note = before


def is_full(error: BaseException | None) -> bool:
    """Return whether an error was caused by a full disk or an exceeded quota.

    Libraries wrap such errors in errors of their own, so the chain of causes is searched.
    """
    while error is not None:
        if (isinstance(error, OSError) and error.errno in FULL) or WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_bytes(where: Path) -> int:
    """Return the bytes that are free for this user on the disk of a path, which need not exist."""
    return shutil.disk_usage(_existing(where)).free


def require_space(where: Path, needed_bytes: int) -> None:
    """Require free space in addition to the reserve.

    Args:
        where: A path on the disk; it need not exist.
        needed_bytes: The bytes to be written.

    Raises:
        OSError: Too few bytes are free; the error number is that of a full disk.
    """
    if free_bytes(where) < needed_bytes + RESERVE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(where))


class Pause:
    """Wait for free space on the disk of `where`, or for a store that does not respond.

    `note` receives one message when the wait begins and one when it ends.
    """

    def __init__(self, where: Path, note: Note | None = None) -> None:
        self.where, self.note, self.disk, self.end = where, note, 0, ""

    def wait(self, away: str = "") -> None:
        """Wait for one polling interval.

        Args:
            away: The store that does not respond, and the reason; empty for a full disk.
        """
        if not self.end:
            place = _existing(self.where)
            self.disk = place.stat().st_dev
            while not os.path.ismount(place):
                place = place.parent
            begin = (
                f"the disk of {place} is full or a quota is exceeded "
                f"({free_bytes(place) / 2**20:.0f} MiB free): writes are paused; free some space, "
                f"and they continue automatically without loss"
            )
            self.end = f"the disk of {place} has free space again: writes continue"
            if away:
                begin = f"{away}: access is paused and continues automatically"
                self.end = "the store responds again: access continues"
            self._report(begin, begins=True)
        time.sleep(POLL_S)

    def over(self) -> None:
        """End the wait."""
        if self.end:
            self._report(self.end, begins=False)
            self.end = ""

    def _report(self, text: str, begins: bool) -> None:
        if self.note:
            self.note(text)
        # Otherwise another writer has reported it, or reporting it needs space itself.
        elif begins != (self.disk in _process.reported):
            (_process.reported.add if begins else _process.reported.discard)(self.disk)
            _process.note(text)


def retry_while_disk_full(action: Callable[[], T], where: Path) -> T:
    """Return the result of an action, retried while the disk of `where` is full.

    After a signal the wait ends and the error of the full disk is raised.

    Args:
        action: The action; it must leave nothing behind when it fails.
        where: A path on the disk.
    """
    pause = Pause(where)
    while True:
        try:
            value = action()
            pause.over()
            return value
        except Exception as error:
            if not is_full(error) or remaining_timeout(math.inf) < math.inf:
                raise
        try:
            pause.wait()
        except BaseException:
            _process.reported.discard(pause.disk)
            raise


def raise_on_all_ranks(
    context: "TrialContext",
    action: Callable[[], T],
    where: Path,
    heartbeat: Callable[[], None] = lambda: None,
    away: str = "",
) -> T:
    """Run an action on all ranks; return this rank's result.

    While the disk of any rank is full, all ranks wait and retry. All ranks must call this together.

    Args:
        context: The context of this rank; rank 0 reports the reason of a wait.
        action: The action to run.
        where: A path on the disk.
        heartbeat: A heartbeat that is called while waiting.
        away: The URI of a store; all ranks also wait and retry while it does not respond to one.

    Raises:
        PreflightError: The action raised it on any rank; it is raised on all of them.
        Stopped: A stop of the trial was requested.
    """
    pause = Pause(where, context.note if context.is_main_process else lambda text: None)
    while True:
        value, kind, text, refusal = None, "", "", None
        try:
            value = action()
        except Exception as error:
            kind, text = _kind(error, away), " ".join(str(error).split())[:300]
            if not kind:
                raise
            refusal = error if kind == "unfit" else None
        gathered = context.all_gather_object((kind, text, refusal))
        reasons = {kind: text for kind, text, _ in reversed(gathered) if kind}
        if refusals := [refusal for _, _, refusal in gathered if refusal]:
            raise PreflightError.from_error(refusals[0], reasons["unfit"])
        if not reasons:
            pause.over()
            return cast(T, value)
        pause.wait(
            "" if "full" in reasons else f"the store {away} does not respond ({reasons['away']})"
        )
        heartbeat()
        context.heartbeat()
        context.raise_if_stopped()


def _kind(error: Exception, away: str) -> str:
    if is_full(error):
        return "full"
    if isinstance(error, PreflightError):
        return "unfit"
    return "away" if away and isinstance(error, OSError) else ""


def _existing(where: Path) -> Path:
    where = where.absolute()
    while not where.exists():
        where = where.parent
    return where
