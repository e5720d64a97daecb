"""Room on a disk. Who meets a full one waits, says so once, and goes on when there is room. Knows no contents.

A reserve stays free of everything that is large, so that records, which are small, can always be finished.
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
FULL = (errno.ENOSPC, errno.EDQUOT)  # a quota may be used up where the file system shows space
WORDS = re.compile(rf"\(os error ({FULL[0]}|{FULL[1]})\)|Not enough free space to write")  # of safetensors, of NumPy
Note = Callable[[str], None]
T = TypeVar("T")


class _Process:
    """What concerns all writers of this process: who is told, and the disks of which it was told."""

    def __init__(self) -> None:
        self.note: Note = lambda text: None
        self.told: set[int] = set()


_process = _Process()


@contextmanager
def report_waits(note: Note) -> Iterator[None]:
    """Within the block `note` hears of the pauses of this process, those aside that tell somebody of their own."""
    before, _process.note = _process.note, note
    try:
        yield
    finally:
        _process.note = before


def is_full(error: BaseException | None) -> bool:
    """Whether it comes of a full disk or a used up quota; libraries wrap that in errors of their own."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in FULL) or WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def free_bytes(where: Path) -> int:
    """What is free for us on the disk of a place, whether it is there yet or not."""
    return shutil.disk_usage(_existing(where)).free


def require_space(where: Path, needed_bytes: int) -> None:
    """OSError, as of a full disk, unless so many bytes are free beside the reserve."""
    if free_bytes(where) < needed_bytes + RESERVE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(where))


class Pause:
    """A wait for room on the disk of `where`, or for a store that is away; `note` hears once that it begins and that it ends."""

    def __init__(self, where: Path, note: Note | None = None) -> None:
        self.where, self.note, self.disk, self.end = where, note, 0, ""

    def wait(self, away: str = "") -> None:
        """A step of it; `away` says who does not answer, and why, where it is no disk that is full."""
        if not self.end:
            place = _existing(self.where)
            self.disk = place.stat().st_dev
            while not os.path.ismount(place):
                place = place.parent
            begin = (
                f"the disk of {place} is full, or a quota on it ({free_bytes(place) / 2**20:.0f} MiB free): who writes there "
                "waits; free some space, and it goes on by itself: nothing is lost"
            )
            self.end = f"there is room again on the disk of {place}: going on"
            if away:
                begin, self.end = f"{away}: who needs it waits, and goes on by itself", "the store answers again: going on"
            self._say(begin, begins=True)
        time.sleep(POLL_S)

    def over(self) -> None:
        """Nobody waits any more."""
        if self.end:
            self._say(self.end, begins=False)
            self.end = ""

    def _say(self, text: str, begins: bool) -> None:
        if self.note:
            self.note(text)
        elif begins != (self.disk in _process.told):  # else another writer has said it; or saying it needs room itself
            (_process.told.add if begins else _process.told.discard)(self.disk)
            _process.note(text)


def retry_while_disk_full(action: Callable[[], T], where: Path) -> T:
    """What the action gives, which is tried again and again while the disk of `where` is full.

    It must leave nothing behind when it fails. After a signal nobody waits any more: the error of the full disk is raised.
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
            _process.told.discard(pause.disk)
            raise


def raise_on_all_ranks(
    context: "TrialContext", action: Callable[[], T], where: Path, alive: Callable[[], None] = lambda: None, away: str = ""
) -> T:
    """What the action gives on this rank; while the disk of any rank is full, all of them wait and try again.

    So they do while the store of the URI `away`, if any, does not answer one of them. All ranks call this together. Who waits shows
    that it is `alive`; the first rank says why. An PreflightError of any rank is raised on all of them, as is Stopped when
    somebody asks for the end of the trial.
    """
    pause = Pause(where, context.note if context.leads else lambda text: None)
    while True:
        value, kind, text, refusal = None, "", "", None
        try:
            value = action()
        except Exception as error:
            kind, text = _kind(error, away), " ".join(str(error).split())[:300]
            if not kind:
                raise
            refusal = error if kind == "unfit" else None
        gathered = context.gather((kind, text, refusal))
        said = {kind: text for kind, text, _ in reversed(gathered) if kind}
        if refusals := [refusal for _, _, refusal in gathered if refusal]:
            raise PreflightError.from_error(refusals[0], said["unfit"])
        if not said:
            pause.over()
            return cast(T, value)
        pause.wait("" if "full" in said else f"the store {away} does not answer ({said['away']})")
        alive()
        context.alive()
        context.require_going_on()


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
