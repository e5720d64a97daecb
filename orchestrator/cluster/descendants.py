"""Record the processes that a driver started, so that the next command ends leftover ones.

A process is ended only if its id, start time and program match the record and its driver is dead.
"""

import contextlib
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from orchestrator.core.errors import ConfigurationError
from orchestrator.core.signals import before_exit, remaining_timeout
from orchestrator.store.store import read_json, write_json

FILES = "processes-*.json"
LOOK_S = 2.0
SAME_S = 2.0  # a start time is computed from the boot time, which clock corrections shift
ORDERLY_S = 2.0  # for processes that are already ending
GONE_S = 5.0
Noted = dict[str, Any]


@contextlib.contextmanager
def record_descendants(folder: Path) -> Iterator[None]:
    """Record all processes below this one in a file of the folder.

    Processes that still live at the end of the block are ended. They are also ended if this process
    exits at once.
    """
    descendants, over = Descendants(), threading.Event()
    file = folder / FILES.replace("*", str(descendants.driver.pid))
    thread = threading.Thread(
        target=_keep, args=(descendants, file, over), name="processes", daemon=True
    )
    with before_exit(lambda: _kill(descendants.look())):
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            _, living = psutil.wait_procs(descendants.look(), timeout=remaining_timeout(ORDERLY_S))
            _kill(living)
            file.unlink(missing_ok=True)


def end_left_over(root: Path) -> list[int]:
    """End processes on this machine that dead drivers of the store have left.

    Return the ids of the ended processes.
    """
    ended: list[int] = []
    for pattern in (f"*/groups/{FILES}", f"*/*/groups/{FILES}"):
        for file in root.glob(pattern):
            try:
                found = read_json(file)
                if found["host"] != socket.gethostname() or _living(found["driver"]):
                    continue
                living = [process for each in found["processes"] if (process := _living(each))]
            except (ConfigurationError, LookupError, TypeError):
                living = []
            processes = [each for process in living for each in (process, *_below(process))]
            ended += _kill(processes)
            psutil.wait_procs(processes, timeout=GONE_S)
            file.unlink(missing_ok=True)
    return ended


class Descendants:
    """Processes below this one, including those whose parent has died since."""

    def __init__(self) -> None:
        self.driver = psutil.Process()
        self.known: dict[psutil.Process, Noted] = {}

    def look(self) -> list[psutil.Process]:
        """Return the processes that live now."""
        for process in _below(self.driver):
            if process not in self.known and (note := _note(process)):
                self.known[process] = note
        self.known = {process: note for process, note in self.known.items() if _lives(process)}
        return list(self.known)


def _keep(descendants: Descendants, file: Path, over: threading.Event) -> None:
    before: list[Noted] = []
    while not over.is_set():
        descendants.look()
        now = list(descendants.known.values())
        if now != before:
            with contextlib.suppress(OSError):  # a full disk
                whole = {
                    "host": socket.gethostname(),
                    "driver": _note(descendants.driver),
                    "processes": now,
                }
                write_json(file, whole, lasting=False)
                before = now
        over.wait(LOOK_S)


def _below(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _note(process: psutil.Process) -> Noted | None:
    """Return the identity of a process; None if it is gone or not accessible."""
    try:
        return {"pid": process.pid, "began": process.create_time(), "program": process.exe()}
    except (psutil.Error, OSError):
        return None


def _living(noted: Noted) -> psutil.Process | None:
    """Return the recorded process if it lives and still has its id; else None."""
    try:
        process = psutil.Process(noted["pid"])
    except psutil.Error:
        return None
    now = _note(process)
    same = (
        now is not None
        and now["program"] == noted["program"]
        and abs(now["began"] - noted["began"]) < SAME_S
    )
    return process if same and _lives(process) else None


def _kill(processes: Iterable[psutil.Process]) -> list[int]:
    """Send SIGKILL to all processes, including stopped ones.

    Return the ids of those that existed.
    """
    ended = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
            ended.append(process.pid)
    return ended
