"""Record the processes that a driver started, so that the next command ends leftover ones.

A process is ended only if its id, start time and program match the record and its driver is dead.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from orchestrator.cluster.own_cluster import list_early_processes
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.signals import before_exit, remaining_timeout
from orchestrator.store.record_file import STRICT, RecordSchema

FILES = "processes-*.json"
CHECK_S = 2.0
SAME_S = 2.0  # a start time is computed from the boot time, which clock corrections shift
# for processes that are already ending: nothing is lost with them, and their teardown takes seconds
ORDERLY_S = 0.5
GONE_S = 5.0
GONE_CHECK_S = 0.02


@dataclass(frozen=True)
class ProcessIdentity:
    """Identity of a process; `began` is its start in seconds since 1970."""

    __pydantic_config__ = STRICT
    pid: int
    began: float
    program: str


@dataclass(frozen=True)
class DriverProcesses:
    """Record of a driver and of the processes that it started."""

    __pydantic_config__ = STRICT
    host: str
    driver: ProcessIdentity
    processes: tuple[ProcessIdentity, ...]


DRIVER_PROCESSES = RecordSchema[DriverProcesses](DriverProcesses)


_exempted: set[psutil.Process] = set()


def exempt(pid: int) -> None:
    """Leave a child of this process, and those below it, to itself at the end of a run."""
    with contextlib.suppress(psutil.Error):  # it has ended already
        _exempted.add(psutil.Process(pid))


@contextlib.contextmanager
def record_descendants(folder: Path) -> Iterator[None]:
    """Record the processes of a run, which are below this one, in a file of the folder.

    Processes that still live at the end of the block are ended. They are also ended if this process
    exits at once. Processes that this one had before, as a notebook may have, are left alone.
    """
    early = list_early_processes()
    others = [each for each in psutil.Process().children() if each.pid not in early]
    descendants, finished = Descendants(others), threading.Event()
    file = folder / FILES.replace("*", str(descendants.driver.pid))
    thread = threading.Thread(
        target=_record_until, args=(descendants, file, finished), name="processes", daemon=True
    )
    with before_exit(lambda: _kill(descendants.refresh())):
        thread.start()
        try:
            yield
        finally:
            finished.set()
            thread.join()
            _kill(wait_until_gone(descendants, remaining_timeout(ORDERLY_S)))
            file.unlink(missing_ok=True)


def end_leftover_processes(root: Path) -> list[int]:
    """End processes on this machine that dead drivers of the store have left.

    Return the ids of the ended processes.
    """
    ended_pids: list[int] = []
    for pattern in (f"*/groups/{FILES}", f"*/*/groups/{FILES}"):
        for file in root.glob(pattern):
            try:
                record = DRIVER_PROCESSES.read(file)
            except ConfigurationError:
                alive = []
            else:
                if record.host != socket.gethostname() or _find_recorded_process(record.driver):
                    continue
                found = map(_find_recorded_process, record.processes)
                alive = [process for process in found if process]
            processes = [
                each for process in alive for each in (process, *_list_descendants(process))
            ]
            ended_pids += _kill(processes)
            psutil.wait_procs(processes, timeout=GONE_S)
            file.unlink(missing_ok=True)
    return ended_pids


class Descendants:
    """Processes below this one, including those whose parent has died since.

    `others` are children that are ignored, with all processes below them.
    """

    def __init__(self, others: Iterable[psutil.Process] = ()) -> None:
        self.driver, self.others = psutil.Process(), tuple(others)
        self.records: dict[psutil.Process, ProcessIdentity] = {}

    def refresh(self) -> list[psutil.Process]:
        """Return the processes that live now."""
        others = {*self.others, *_exempted}
        ignored = others | {each for child in others for each in _list_descendants(child)}
        for process in _list_descendants(self.driver):
            if process in ignored or process in self.records:
                continue
            if note := _identify(process):
                self.records[process] = note
        self.records = {
            process: note
            for process, note in self.records.items()
            if process not in ignored and _is_alive(process)
        }
        return list(self.records)


def wait_until_gone(descendants: Descendants, timeout_s: float) -> list[psutil.Process]:
    """Wait until no process lives, at most `timeout_s` seconds; return those that live.

    A process that has ended counts as gone, even if its parent, such as the first process of a
    container, never reads its exit status.
    """
    until = time.monotonic() + timeout_s
    while (alive := descendants.refresh()) and time.monotonic() < until:
        time.sleep(GONE_CHECK_S)
    return alive


def _record_until(descendants: Descendants, file: Path, finished: threading.Event) -> None:
    written: tuple[ProcessIdentity, ...] = ()
    while not finished.is_set():
        descendants.refresh()
        current = tuple(descendants.records.values())
        if current != written and (driver := _identify(descendants.driver)):
            with contextlib.suppress(OSError):  # a full disk
                record = DriverProcesses(socket.gethostname(), driver, current)
                DRIVER_PROCESSES.write(file, asdict(record), lasting=False)
                written = current
        finished.wait(CHECK_S)


def _list_descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _identify(process: psutil.Process) -> ProcessIdentity | None:
    """Return the identity of a process; None if it is gone or not accessible."""
    try:
        return ProcessIdentity(process.pid, process.create_time(), process.exe())
    except (psutil.Error, OSError):
        return None


def _find_recorded_process(record: ProcessIdentity) -> psutil.Process | None:
    """Return the recorded process if it lives and still has its id; else None."""
    try:
        process = psutil.Process(record.pid)
    except psutil.Error:
        return None
    current = _identify(process)
    is_same = (
        current is not None
        and current.program == record.program
        and abs(current.began - record.began) < SAME_S
    )
    return process if is_same and _is_alive(process) else None


def _kill(processes: Iterable[psutil.Process]) -> list[int]:
    """Send SIGKILL to all processes, including stopped ones.

    Return the ids of those that existed.
    """
    ended_pids = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
            ended_pids.append(process.pid)
    return ended_pids
