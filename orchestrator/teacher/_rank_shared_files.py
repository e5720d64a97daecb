"""Create and map cache files that all ranks of a worker group share.

An error on one rank is raised on all ranks: otherwise the others would block in a collective
operation.
"""

import contextlib
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from orchestrator.core import disk
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import PreflightError
from orchestrator.teacher.cache import Array, Cache, Lock, convert_os_errors

ATTEMPTS = 6  # a small limit may remove a file between its creation and its use
Files = dict[str, Path]
CreateFiles = Callable[[Files, list[Lock]], None]
CreateOne = Callable[[int, Files, list[Lock]], None]


class RankSharedFiles:
    """Collective creation and memory-mapping of files in one cache folder.

    All ranks call every method together. Each folder (one per node, or one for all nodes) has one
    rank that writes it. Other groups wait for the locks of that rank.

    Args:
        cache: The cache that holds the files.
        context: The context of the ranks.
        wait_s: Longest wait in seconds for a lock whose owner's heartbeat has stopped.
    """

    def __init__(self, cache: Cache, context: TrialContext, wait_s: float) -> None:
        self.cache, self.context, self.wait_s = cache, context, wait_s
        self.writers: list[int] = []

    def open(self, files: Files, make: CreateFiles) -> tuple[dict[str, Array], bool]:
        """Return the arrays of the files, and create missing files first.

        Args:
            files: The file of each part, by name.
            make: Computes what is missing on any rank; all ranks call it together. It gets the
                files that this rank writes, and the locks that carry its heartbeat.

        Returns:
            The memory-mapped arrays by name, and whether this group created a file.

        Raises:
            PreflightError: Another process holds a lock without a heartbeat, the cache cannot be
                used, or a file was removed after each of `ATTEMPTS` attempts.
            Stopped: A stop of the trial was requested meanwhile.
        """
        created = False
        for attempt in range(ATTEMPTS):
            self._wait_for_file_system(attempt)
            arrays = self.context.raise_on_all_ranks(lambda: self.cache.read_all(files))
            if all(self.context.all_gather_object(len(arrays) == len(files))):
                return arrays, created
            created = self._create_missing(files, make) or created
        raise PreflightError(
            f"{next(iter(files.values()))} was removed as soon as it was created: raise "
            f"teacher.cache_gib"
        ).with_details("teacher.cache_gib", self.cache.limit_bytes / 2**30, "more GiB")

    def create_unlocked(self, files: dict[int, Path], make: CreateOne) -> list[int]:
        """Create the missing files of one folder that no other process creates, without waiting.

        `open` has created a file in this folder before.

        Args:
            files: The files by number.
            make: Computes a file; all ranks call it together. It gets the number, the file if this
                rank writes it, and the locks that carry its heartbeat.

        Returns:
            The numbers of the created files, the same on all ranks.
        """
        with contextlib.ExitStack() as stack:
            locks: dict[int, Lock] = {}

            def acquire() -> None:
                for number, file in files.items():
                    lock = Lock(file)
                    if not file.exists() and lock.acquire_now():
                        stack.callback(lock.release)
                        if not file.exists():
                            locks[number] = lock

            is_writer = self.context.rank in self.writers
            self.context.raise_on_all_ranks(acquire if is_writer else bool)
            numbers = sorted(set().union(*self.context.all_gather_object(set(locks))))
            for number in numbers:
                missing = {"logits": files[number]} if number in locks else {}
                make(number, missing, list(locks.values()))
                if number in locks:
                    locks.pop(number).release()
            return numbers

    def _wait_for_file_system(self, attempt: int) -> None:
        """Wait 2^attempt seconds if attempt > 1: a shared folder may show a new file late."""
        for _ in range(2**attempt if attempt > 1 else 0):
            time.sleep(1)
            self.context.heartbeat()

    def _create_missing(self, files: Files, make: CreateFiles) -> bool:
        """Create the missing files under their locks; return False if none was missing.

        Another process may have created them meanwhile.
        """
        folder = next(iter(files.values())).parent
        disk.raise_on_all_ranks(self.context, lambda: self.cache.make(folder), folder)
        self.writers = self.writers or writers(folder, self.context)
        is_writer = self.context.rank in self.writers
        with self._locked(list(files.values())) as locks:
            present = self.context.raise_on_all_ranks(lambda: self.cache.read_all(files))
            missing = {
                part: file for part, file in files.items() if is_writer and part not in present
            }
            if not any(self.context.all_gather_object(bool(missing))):
                return False
            make(missing, locks)
            return True

    @contextlib.contextmanager
    def _locked(self, files: list[Path]) -> Iterator[list[Lock]]:
        """Acquire the locks of the files in the same order everywhere; yield those of this rank.

        The rank that writes a folder acquires the locks of its files.
        """
        with contextlib.ExitStack() as stack:
            locks = []
            for rank in self.writers:
                for file in files:
                    lock = Lock(file)
                    if rank == self.context.rank:
                        locks.append(lock)
                        stack.callback(lock.release)
                    self._wait(rank, lock)
            yield locks

    def _wait(self, rank: int, lock: Lock) -> None:
        step = lock.wait(self.wait_s)
        acquired: bool | None = None
        while acquired is None:
            acquired = self.context.broadcast_object(
                self.context.raise_on_all_ranks(
                    lambda: step() if rank == self.context.rank else None
                ),
                rank,
            )
            self.context.heartbeat()
            if acquired is None:
                self.context.raise_if_stopped()
        if not acquired:
            raise PreflightError(
                f"waited {self.wait_s:g} s for another process to write {lock.file}, without a "
                f"heartbeat: find the process that holds {lock.path}, and end it"
            ).with_details(str(lock.file), self.wait_s, "a file that no other process holds")


def _create_marker(path: Path) -> None:
    with convert_os_errors(path):
        path.touch()


def writers(folder: Path, context: TrialContext) -> list[int]:
    """Return the ranks that write: the first rank of each set that sees the same folder.

    The ranks are ordered by host name, the same in every group. All ranks call this together.
    """
    if context.world_size == 1:
        return [0]
    writers_by_host: list[tuple[str, int]] = []
    my_writer: int | None = None
    while True:
        waiting = [
            rank
            for rank, seen in enumerate(context.all_gather_object(my_writer is not None))
            if not seen
        ]
        if not waiting:
            return [rank for _, rank in sorted(writers_by_host)]
        first = waiting[0]
        name, host = context.broadcast_object(
            (f".seen-{uuid.uuid4().hex}", socket.gethostname()), first
        )
        mark = folder / name
        context.raise_on_all_ranks(partial(_create_marker, mark) if context.rank == first else bool)
        my_writer = first if my_writer is None and mark.exists() else my_writer
        context.broadcast_object()
        if context.rank == first:
            mark.unlink(missing_ok=True)
        writers_by_host.append((host, first))
