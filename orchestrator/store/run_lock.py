"""Who runs a sweep: one process holds its lock for its life, and leaves word of who it is. Knows a folder and no sweep.

The lock is the system's, and ends with its process. On a disk that several hosts share it may be seen on one of them alone: so the
process also touches its word every few seconds, and whoever finds a fresh one of another host keeps away.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, NamedTuple

from filelock import FileLock, Timeout
from pydantic import Field, with_config
from typing_extensions import TypedDict

from orchestrator.core.errors import ConfigurationError
from orchestrator.store.record_file import STRICT, RecordSchema, Timestamp

LOCK = "driver.lock"
WORD = "driver.json"
BEAT_S = 10.0
SILENT_S = 60.0  # after so long without a touch a process of another host is taken for dead


@with_config(STRICT)
class Driver(TypedDict):
    """Who runs a sweep, and since when."""

    host: str
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    since: Timestamp


DRIVER = RecordSchema[Driver](Driver)


def running(folder: Path) -> bool:
    """Whether a process runs the sweep in the folder, on whatever host."""
    try:
        with _lock(folder).acquire(timeout=0):
            return _elsewhere(folder) is not None
    except Timeout:
        return True


class DriverStatus(NamedTuple):
    """What the word of an owner tells: whether he lives, and for how long he has, or had, held the folder (s)."""

    alive: bool
    seconds: float


def driver_status(folder: Path) -> DriverStatus | None:
    """How it stands with the last owner by his word alone; None where he left in order. For onlookers: no lock is taken."""
    found = _word(folder)
    if found is None:
        return None
    here, age_s = found["host"] == socket.gethostname(), _age_s(folder)
    alive = age_s <= SILENT_S and not (here and _gone(found["pid"]))
    return DriverStatus(alive, max(time.time() - found["since"] - (0.0 if alive else age_s), 0.0))


def _refusal(folder: Path) -> ConfigurationError:
    return ConfigurationError(lock_holder(folder), field="name", value=folder.name, allowed="a sweep that nobody runs")


@contextlib.contextmanager
def single_driver(folder: Path) -> Iterator[None]:
    """Be the one process that has the folder, for a moment; ConfigurationError when there is another one."""
    try:
        with _lock(folder).acquire(timeout=0):
            yield
    except Timeout as error:
        raise _refusal(folder) from error


@contextlib.contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """Be the one process that runs the sweep in the folder; ConfigurationError says who else does, and what can be done."""
    with single_driver(folder):
        if _elsewhere(folder):
            raise _refusal(folder)
        word = folder / WORD
        DRIVER.write(word, {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()})
        ended = threading.Event()
        beating = threading.Thread(target=_beat, args=(word, ended), name="owner", daemon=True)
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()
            word.unlink(missing_ok=True)


def lock_holder(folder: Path) -> str:
    """Who runs the sweep in the folder, in a sentence with the next step."""
    found = _word(folder)
    if found is None:
        return f"sweep {folder.name!r} is run by another process at this moment: wait for it, or end it"
    since = f"{datetime.fromtimestamp(found['since']):%Y-%m-%d %H:%M}"
    who = f"sweep {folder.name!r} is run by process {found['pid']} on {found['host']} since {since}"
    if found["host"] == socket.gethostname():
        return f"{who}: wait for it, or end it with `kill {found['pid']}`"
    return (
        f"{who}, which showed life {_age_s(folder):.0f} s ago: wait for it, or end it there; "
        f"if it is dead already, try again when it has been silent for {SILENT_S:.0f} s"
    )


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / LOCK)


def _beat(word: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        with contextlib.suppress(OSError):
            os.utime(word)


def _word(folder: Path) -> Driver | None:
    """What the owner left; None where there is nothing, or nothing that can be read."""
    try:
        return DRIVER.read(folder / WORD)
    except ConfigurationError:
        return None


def _gone(process: int) -> bool:
    """Whether there is no such process on this host."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody else's
    return False


def _elsewhere(folder: Path) -> Driver | None:
    """The word of a process on another host that was alive a moment ago; the lock decides about those of this host."""
    found = _word(folder)
    if found is None or found["host"] == socket.gethostname() or _age_s(folder) > SILENT_S:
        return None
    return found


def _age_s(folder: Path) -> float:
    """Seconds since the owner last touched its word."""
    try:
        return max(time.time() - (folder / WORD).stat().st_mtime, 0.0)
    except OSError:
        return float("inf")
