"""Run one teacher pass over a view into the cache; the ranks of a group share its blocks."""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from methods import Output
from orchestrator.core import disk
from orchestrator.core.errors import PreflightError
from orchestrator.data.batches import Batches
from orchestrator.teacher._rank_shared_files import Files, RankSharedFiles
from orchestrator.teacher.cache import Array, Lock, Writer
from orchestrator.teacher.frozen import FrozenTeacher

STOP_CHECK_BLOCKS = 16


def _nobody(_: int) -> None:
    """Ignore the progress of a pass."""


class SharedPass:
    """Cache files that a collective teacher pass fills on a cache miss.

    The files hold the `logits` of a view and, for the clean view, also `features`. All ranks call
    every method together. `told` is called with the number of samples that are done.
    """

    def __init__(
        self, teacher: FrozenTeacher, batches: Batches, dtype: str, sharing: RankSharedFiles
    ) -> None:
        self.teacher, self.batches, self.dtype, self.sharing = teacher, batches, dtype, sharing
        self.context = sharing.context
        self.samples = len(batches.dataset.train)
        self.told: Callable[[int], None] = _nobody

    def open(self, view: int | None, files: Files) -> tuple[dict[str, Array], bool]:
        """Return the memory-mapped arrays, and whether the teacher had to run.

        Args:
            view: Index of the augmented view; None for the clean view.
            files: The file of each part, by name.

        Raises:
            PreflightError: As `RankSharedFiles.open`.
            Stopped: As `RankSharedFiles.open`.
        """
        return self.sharing.open(files, partial(self._compute, view))

    def _compute(self, view: int | None, missing: Files, locks: list[Lock]) -> None:
        parts, left, failure = Output._fields[: 2 if view is None else 1], self.samples, None
        with contextlib.ExitStack() as opened:
            pens: dict[str, Writer] = {}

            def alive() -> None:
                for lock in locks:
                    lock.show_life()

            for number, batch in enumerate(
                self.batches.full_blocks(view, self.context.rank, self.context.world_size), 1
            ):
                output = self.teacher(batch.inputs)
                blocks = {part: self.context.all_gather(getattr(output, part)) for part in parts}
                rows = {part: torch.cat(each)[:left].cpu().numpy() for part, each in blocks.items()}
                left -= len(rows["logits"])
                if number == 1:  # wait for a full disk here, not after a long pass
                    disk.raise_on_all_ranks(
                        self.context,
                        partial(self._open, missing, rows, pens, opened),
                        self.sharing.cache.root,
                        alive,
                    )
                failure = failure or self._write(rows, pens)
                alive()
                self.told(self.samples - left)
                self.context.heartbeat()
                if number % STOP_CHECK_BLOCKS == 0:
                    self.context.raise_if_stopped()
            self.context.raise_on_all_ranks(lambda: _finish(pens, failure))

    def _open(
        self,
        missing: Files,
        rows: dict[str, Array],
        pens: dict[str, Writer],
        opened: contextlib.ExitStack,
    ) -> None:
        """Open the writers of the missing files, which reserve disk space, unless they are open."""
        if not pens:
            with contextlib.ExitStack() as begun:
                found = {
                    part: begun.enter_context(self._writer(file, rows[part]))
                    for part, file in missing.items()
                }
                opened.push(begun.pop_all())
            pens |= found

    def _writer(self, file: Path, rows: Array) -> Writer:
        return self.sharing.cache.writer(file, self.samples, rows.shape[1], self.dtype)

    def _write(self, rows: dict[str, Array], pens: dict[str, Writer]) -> PreflightError | None:
        """Write the rows; return an error instead of raising it.

        The other ranks are in the middle of the pass.
        """
        try:
            for part, pen in pens.items():
                pen.add(self._cast(part, rows[part]))
        except PreflightError as error:
            return error
        return None

    def _cast(self, part: str, rows: Array) -> Array:
        with np.errstate(over="ignore"):
            cast = rows.astype(self.dtype)
        if not np.isfinite(cast).all():
            if np.isfinite(rows).all():
                raise PreflightError(
                    f"the teacher's {part} are beyond the range of {self.dtype}: set "
                    f"teacher.dtype=float32",
                    field="teacher.dtype",
                    value=self.dtype,
                    allowed=("float32",),
                )
            raise PreflightError(
                f"the teacher's {part} are not finite: {self.teacher.remedy}",
                field="teacher",
                value=part,
                allowed="finite values",
            )
        return cast


def _finish(pens: dict[str, Writer], failure: PreflightError | None) -> None:
    if failure:
        raise failure
    for pen in pens.values():
        pen.finish()
