"""Lock a sweep or a comparison for one driver, and publish its identity and heartbeat.

The operating system releases the lock when its process ends. On a disk that several hosts share,
the lock may be visible on one host only. The driver therefore also touches its heartbeat file every
few seconds, and other hosts respect a fresh heartbeat.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, NamedTuple

from filelock import FileLock, Timeout
from pydantic import Field, with_config
from typing_extensions import TypedDict

from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.store.record_file import STRICT, RecordSchema, Timestamp

LOCK = "driver.lock"
STOP_TIMEOUT_S, STOP_POLL_S = 30.0, 0.2  # an orderly shutdown takes at most 20 s
HEARTBEAT_FILE = "driver.json"
HEARTBEAT_S = 10.0
HEARTBEAT_TIMEOUT_S = (
    60.0  # without a heartbeat for this long, a driver on another host counts as dead
)


@with_config(STRICT)
class Driver(TypedDict):
    """Identity of the driver of a sweep, and its start time."""

    host: str
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    since: Timestamp


DRIVER = RecordSchema[Driver](Driver)


def is_running(folder: Path) -> bool:
    """Return whether a process on any host runs the sweep in the folder."""
    try:
        with _lock(folder).acquire(timeout=0):
            return _find_remote_driver(folder) is not None
    except Timeout:
        return True


class DriverStatus(NamedTuple):
    """Status of a driver, from its heartbeat file.

    Attributes:
        alive: Whether the driver is alive.
        seconds: Seconds for which it has held the folder, or held it before it died.
    """

    alive: bool
    seconds: float


def driver_status(folder: Path) -> DriverStatus | None:
    """Return the status of the last driver, None without a readable heartbeat file.

    The file is removed at an orderly exit. The heartbeat file alone decides. No lock is taken, so
    that observers cannot interfere.
    """
    record = _read_driver(folder)
    if record is None:
        return None
    here, age_s = record["host"] == socket.gethostname(), _heartbeat_age_s(folder)
    alive = age_s <= HEARTBEAT_TIMEOUT_S and not (here and _is_dead(record["pid"]))
    return DriverStatus(alive, max(time.time() - record["since"] - (0.0 if alive else age_s), 0.0))


def _refusal(folder: Path) -> ConfigurationError:
    return ConfigurationError(describe_driver(folder)).with_details(
        "name", folder.name, "a sweep that no process runs"
    )


@contextlib.contextmanager
def single_driver(folder: Path) -> Iterator[None]:
    """Hold the lock of the folder within the block.

    Raises:
        ConfigurationError: Another process holds the lock.
    """
    try:
        with _lock(folder).acquire(timeout=0):
            yield
    except Timeout as error:
        raise _refusal(folder) from error


@contextlib.contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of the sweep, and write the heartbeat, within the block.

    Raises:
        ConfigurationError: Another process runs the sweep. The message names it and the next step.
    """
    with single_driver(folder):
        if _find_remote_driver(folder):
            raise _refusal(folder)
        file = folder / HEARTBEAT_FILE
        DRIVER.write(file, {"host": socket.gethostname(), "pid": os.getpid(), "since": time.time()})
        ended = threading.Event()
        beating = threading.Thread(
            target=_touch_heartbeat, args=(file, ended), name="owner", daemon=True
        )
        beating.start()
        try:
            yield
        finally:
            ended.set()
            beating.join()
            file.unlink(missing_ok=True)


def stop_driver(folder: Path, wait: Callable[[float], object] = time.sleep) -> bool:
    """Request the orderly end of the driver on this host, and wait for it.

    Args:
        folder: The folder of the sweep or the comparison.
        wait: Waits for the given seconds.

    Returns:
        Whether a driver was running.

    Raises:
        ConfigurationError: The driver runs on another host, or it is unknown.
        PreflightError: The driver has not ended after `STOP_TIMEOUT_S`.
    """
    if not is_running(folder):
        return False
    record = _read_driver(folder)
    if record is None or record["host"] != socket.gethostname():
        raise ConfigurationError(describe_driver(folder)).with_details(
            "name", folder.name, "a driver on this host"
        )
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(record["pid"], signal.SIGTERM)
    for _ in range(int(STOP_TIMEOUT_S / STOP_POLL_S)):
        if not is_running(folder):
            return True
        wait(STOP_POLL_S)
    raise PreflightError(
        f"{folder.name!r} has not ended {STOP_TIMEOUT_S:.0f} s after the stop request: look at the "
        f"output of process {record['pid']}"
    ).with_details("name", folder.name, f"an end within {STOP_TIMEOUT_S:.0f} s")


def describe_driver(folder: Path) -> str:
    """Return a sentence about the process that runs the sweep, with the next step."""
    record = _read_driver(folder)
    kind = "comparison" if folder.parent.name == "comparisons" else "sweep"
    if record is None:
        return (
            f"{kind} {folder.name!r} is being run by another process: wait until it ends, or stop "
            f"it"
        )
    since = f"{datetime.fromtimestamp(record['since']):%Y-%m-%d %H:%M}"
    process = f"process {record['pid']} on {record['host']}"
    driver = f"{kind} {folder.name!r} is being run by {process} since {since}"
    if record["host"] == socket.gethostname():
        return f"{driver}: wait until it ends, or stop it with `kill {record['pid']}`"
    return (
        f"{driver}, with a heartbeat {_heartbeat_age_s(folder):.0f} s ago: wait until it ends, or "
        f"stop it on that host; if it is already dead, try again {HEARTBEAT_TIMEOUT_S:.0f} s after "
        f"its last heartbeat"
    )


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / LOCK)


def _touch_heartbeat(file: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT_S):
        with contextlib.suppress(OSError):
            os.utime(file)


def _read_driver(folder: Path) -> Driver | None:
    """Return the content of the heartbeat file, None if it is missing or unreadable."""
    try:
        return DRIVER.read(folder / HEARTBEAT_FILE)
    except ConfigurationError:
        return None


def _is_dead(process: int) -> bool:
    """Return whether this host has no such process."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # the process belongs to another user
    return False


def _find_remote_driver(folder: Path) -> Driver | None:
    """Return the driver on another host whose heartbeat is fresh, or None.

    For drivers of this host, the lock decides.
    """
    record = _read_driver(folder)
    if (
        record is None
        or record["host"] == socket.gethostname()
        or _heartbeat_age_s(folder) > HEARTBEAT_TIMEOUT_S
    ):
        return None
    return record


def _heartbeat_age_s(folder: Path) -> float:
    """Return the seconds since the last heartbeat."""
    try:
        return max(time.time() - (folder / HEARTBEAT_FILE).stat().st_mtime, 0.0)
    except OSError:
        return float("inf")
