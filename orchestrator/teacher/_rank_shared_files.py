"""Files of the cache that the ranks of a group make together, once for everybody who asks afterwards. Knows not what is in them.

Whatever goes wrong on one rank is raised on all: a rank that left alone would leave the others in a collective.
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
from orchestrator.teacher.cache import Array, Cache, Lock, told

ATTEMPTS = 6  # a file may be removed between its making and its use when the limit is small
Files = dict[str, Path]
Make = Callable[[Files, list[Lock]], None]


class RankSharedFiles:
    """Makes files that lie in one folder, and maps them. All ranks call everything together.

    Each folder (one per node, or one for all) has one rank that writes it. Others than this group wait for its locks.
    """

    def __init__(self, cache: Cache, context: TrialContext, wait_s: float) -> None:
        self.cache, self.context, self.wait_s = cache, context, wait_s
        self.writers: list[int] = []

    def open(self, files: Files, make: Make) -> tuple[dict[str, Array], bool]:
        """The arrays of the files, mapped, and whether this group had to make one.

        `make` computes what is missing on any rank, together; it gets the files that this rank writes, and the locks by which it
        shows life. PreflightError when another process holds a lock without a sign of life, or the cache cannot be used;
        Stopped when somebody asks for the end of the trial meanwhile.
        """
        made = False
        for attempt in range(ATTEMPTS):
            self._wait_for_others(attempt)
            arrays = self.context.together(lambda: self.cache.read_all(files))
            if all(self.context.gather(len(arrays) == len(files))):
                return arrays, made
            made = self._fill(files, make) or made
        raise PreflightError(
            f"{next(iter(files.values()))} was removed as soon as it was there: raise teacher.cache_gib",
            field="teacher.cache_gib",
            value=self.cache.limit_bytes / 2**30,
            allowed="more GiB",
        )

    def _wait_for_others(self, attempt: int) -> None:
        """A folder that nodes share may show a new file late."""
        for _ in range(2**attempt if attempt > 1 else 0):
            time.sleep(1)
            self.context.alive()

    def _fill(self, files: Files, make: Make) -> bool:
        """Make what is missing, under the locks of the files; False when another process did it meanwhile."""
        folder = next(iter(files.values())).parent
        disk.raise_on_all_ranks(self.context, lambda: self.cache.make(folder), folder)
        self.writers = self.writers or writers(folder, self.context)
        mine = self.context.rank in self.writers
        with self._locked(list(files.values())) as locks:
            there = self.context.together(lambda: self.cache.read_all(files))
            missing = {part: file for part, file in files.items() if mine and part not in there}
            if not any(self.context.gather(bool(missing))):
                return False
            make(missing, locks)
            return True

    @contextlib.contextmanager
    def _locked(self, files: list[Path]) -> Iterator[list[Lock]]:
        """The locks of the files, each taken by the rank that writes its folder, in the same order everywhere."""
        with contextlib.ExitStack() as held:
            locks = []
            for rank in self.writers:
                for file in files:
                    lock = Lock(file)
                    if rank == self.context.rank:
                        locks.append(lock)
                        held.callback(lock.release)
                    self._wait(rank, lock)
            yield locks

    def _wait(self, rank: int, lock: Lock) -> None:
        step = lock.wait(self.wait_s)
        got: bool | None = None
        while got is None:
            got = self.context.share(self.context.together(lambda: step() if rank == self.context.rank else None), rank)
            self.context.alive()
            if got is None:
                self.context.require_going_on()
        if not got:
            raise PreflightError(
                f"waited {self.wait_s:g} s for another process to fill {lock.file}, which did nothing: see what holds {lock.path}",
                field=str(lock.file),
                value=self.wait_s,
                allowed="a file that no other process holds",
            )


def _mark(place: Path) -> None:
    with told(place):
        place.touch()


def writers(folder: Path, context: TrialContext) -> list[int]:
    """The ranks that write: the first of those that see the same folder. Ordered by host, the same in every group."""
    if context.world_size == 1:
        return [0]
    found: list[tuple[str, int]] = []
    mine: int | None = None
    while True:
        waiting = [rank for rank, seen in enumerate(context.gather(mine is not None)) if not seen]
        if not waiting:
            return [rank for _, rank in sorted(found)]
        first = waiting[0]
        name, host = context.share((f".seen-{uuid.uuid4().hex}", socket.gethostname()), first)
        mark = folder / name
        context.together(partial(_mark, mark) if context.rank == first else bool)
        mine = first if mine is None and mark.exists() else mine
        context.share()
        if context.rank == first:
            mark.unlink(missing_ok=True)
        found.append((host, first))
