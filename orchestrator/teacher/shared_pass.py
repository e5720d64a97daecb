"""One pass of the teacher over a view, its blocks shared by the ranks of a group, into the cache. Knows no trial.

Whatever goes wrong on one rank is raised on all: a rank that left alone would leave the others in a collective.
"""

import contextlib
import socket
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from methods import Output
from orchestrator.context import TrialContext
from orchestrator.data import Batches
from orchestrator.errors import EnvironmentUnfitError
from orchestrator.teacher.cache import Array, Cache, Lock, Writer, told
from orchestrator.teacher.frozen import FrozenTeacher

STOP_CHECK_BLOCKS = 16
Files = dict[str, Path]


def _nobody(_: int) -> None:
    """Nobody wants to hear how many samples of a pass are done."""


class SharedPass:
    """Fills files of the cache: `logits` of a view and, of the clean one, `features`. All ranks call everything together.

    Each folder (one per node, or one for all) has one rank that writes it. `told` hears how many samples are done.
    """

    def __init__(
        self, teacher: FrozenTeacher, batches: Batches, cache: Cache, dtype: str, context: TrialContext, wait_s: float
    ) -> None:
        self.teacher, self.batches, self.cache, self.context = teacher, batches, cache, context
        self.dtype, self.wait_s = dtype, wait_s
        self.samples = len(batches.dataset.train)
        self.writers: list[int] = []
        self.told: Callable[[int], None] = _nobody

    def fill(self, view: int | None, files: Files) -> bool:
        """Ask the teacher for what is missing, under the locks of the files; False when another process did it meanwhile.

        Raises EnvironmentUnfitError when another process holds a lock without a sign of life, or the cache cannot be written,
        and Stopped when somebody asks for the end of the trial.
        """
        folder = next(iter(files.values())).parent
        self.context.together(lambda: self.cache.make(folder))
        self.writers = self.writers or writers(folder, self.context)
        mine = self.context.rank in self.writers
        with self._locked(list(files.values())) as locks:
            there = self.context.together(lambda: self.cache.read_all(files))
            missing = {part: file for part, file in files.items() if mine and part not in there}
            if not any(self.context.gather(bool(missing))):
                return False
            self._compute(view, missing, locks)
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
            raise EnvironmentUnfitError(
                f"waited {self.wait_s:g} s for another process to fill {lock.file}, which did nothing: see what holds {lock.path}"
            )

    def _compute(self, view: int | None, missing: Files, locks: list[Lock]) -> None:
        parts, left, failure = Output._fields[: 2 if view is None else 1], self.samples, ""
        with contextlib.ExitStack() as opened:
            pens: dict[str, Writer] = {}
            for number, batch in enumerate(self.batches.full_blocks(view, self.context.rank, self.context.world_size), 1):
                output = self.teacher(batch.inputs)
                blocks = {part: self.context.gather_tensors(getattr(output, part)) for part in parts}
                rows = {part: torch.cat(each)[:left].cpu().numpy() for part, each in blocks.items()}
                left -= len(rows["logits"])
                failure = failure or self._write(missing, rows, pens, opened)
                for lock in locks:
                    lock.show_life()
                self.told(self.samples - left)
                self.context.alive()
                if number % STOP_CHECK_BLOCKS == 0:
                    self.context.require_going_on()
            self.context.together(lambda: _finish(pens, failure))

    def _write(self, missing: Files, rows: dict[str, Array], pens: dict[str, Writer], opened: contextlib.ExitStack) -> str:
        """Write the rows; what went wrong in words, for the others are in the middle of the pass."""
        try:
            for part, file in missing.items():
                if part not in pens:
                    writer = self.cache.writer(file, self.samples, rows[part].shape[1], self.dtype)
                    pens[part] = opened.enter_context(writer)
                pens[part].add(self._cast(part, rows[part]))
        except EnvironmentUnfitError as error:
            return str(error)
        return ""

    def _cast(self, part: str, rows: Array) -> Array:
        with np.errstate(over="ignore"):
            cast = rows.astype(self.dtype)
        if not np.isfinite(cast).all():
            if np.isfinite(rows).all():
                raise EnvironmentUnfitError(f"the teacher's {part} are beyond the range of {self.dtype}: set teacher.dtype=float32")
            raise EnvironmentUnfitError(
                f"the teacher's {part} are not finite: fit it anew with a lower teacher.training.learning_rate"
            )
        return cast


def _finish(pens: dict[str, Writer], failure: str) -> None:
    if failure:
        raise EnvironmentUnfitError(failure)
    for pen in pens.values():
        pen.finish()


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
