"""Run one teacher pass over a view and cache its outputs; the ranks of a group share the blocks."""

import contextlib
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from methods import Output
from orchestrator.core import disk
from orchestrator.core.errors import PreflightError
from orchestrator.data.batches import Batches
from orchestrator.teacher._rank_shared_files import Files, RankSharedFiles
from orchestrator.teacher.cache import Array, Lock, Writer
from orchestrator.teacher.frozen import FrozenTeacher

STOP_CHECK_BLOCKS = 16
TOGETHER_BYTES = 2**22  # of inputs that are prepared, and whose outputs are written, together
FLOAT_BYTES = 4
MAP = "map-"  # and the name of a stage: a part with feature maps, flattened to (n, C H W)


def _ignore_progress(_: int) -> None:
    """Ignore the progress of a pass."""


class SharedPass:
    """Cache files that a collective teacher pass creates on a cache miss.

    The files hold the `logits` of a view and, for the clean view, also `features` and feature maps.
    All ranks call every method together. `on_progress` is called with the number of samples that
    are done.
    """

    def __init__(
        self, teacher: FrozenTeacher, batches: Batches, dtype: str, sharing: RankSharedFiles
    ) -> None:
        self.teacher, self.batches, self.dtype, self.sharing = teacher, batches, dtype, sharing
        self.context = sharing.context
        self.samples = len(batches.dataset.train)
        self.on_progress: Callable[[int], None] = _ignore_progress

    def open(self, view: int | None, files: Files) -> tuple[dict[str, Array], bool]:
        """Return the memory-mapped arrays, and whether the teacher ran.

        Args:
            view: Index of the augmented view; None for the clean view.
            files: The file of each part, by name.

        Raises:
            PreflightError: As `RankSharedFiles.open`.
            Stopped: As `RankSharedFiles.open`.
        """
        stages = [part.removeprefix(MAP) for part in files if part.startswith(MAP)]
        return self.sharing.open(files, partial(self._compute, view, stages))

    def create_ahead(self, files: dict[int, Path]) -> list[int]:
        """Create the files of views that will be opened later; return the views.

        Views whose files exist, or that another process computes at present, are left out.

        Args:
            files: The file of each view's logits.

        Raises:
            PreflightError: As `RankSharedFiles.open`.
            Stopped: As `RankSharedFiles.open`.
        """

        def compute(view: int, missing: Files, locks: list[Lock]) -> None:
            self.context.raise_if_stopped()
            self._compute(view, [], missing, locks)

        on_progress, self.on_progress = self.on_progress, _ignore_progress
        try:
            return self.sharing.create_unlocked(files, compute)
        finally:
            self.on_progress = on_progress

    def _compute(
        self, view: int | None, stages: list[str], missing: Files, locks: list[Lock]
    ) -> None:
        fields, remaining, failure = Output._fields[: 2 if view is None else 1], self.samples, None
        together = 1 if stages else self._blocks_together()
        checked_chunks = STOP_CHECK_BLOCKS // together
        with contextlib.ExitStack() as stack:
            writers: dict[str, Writer] = {}

            def update_heartbeats() -> None:
                for lock in locks:
                    lock.update_heartbeat()

            chunks = self.batches.full_blocks(
                view, self.context.rank, self.context.world_size, together
            )
            for number, chunk in enumerate(chunks, 1):
                parts = self._run_teacher(chunk.inputs, fields, stages)
                rows = {part: self._gather(value)[:remaining] for part, value in parts.items()}
                remaining -= len(rows["logits"])
                if number == 1:  # wait for a full disk here, not after a long pass
                    disk.raise_on_all_ranks(
                        self.context,
                        partial(self._open, missing, rows, writers, stack),
                        self.sharing.cache.root,
                        update_heartbeats,
                    )
                failure = failure or self._write(rows, writers)
                update_heartbeats()
                self.on_progress(self.samples - remaining)
                self.context.heartbeat()
                if remaining and number % checked_chunks == 0:
                    self.context.raise_if_stopped()
            self.context.raise_on_all_ranks(lambda: _finish_writers(writers, failure))

    def _blocks_together(self) -> int:
        """Return the number of blocks that are prepared together: one of images in files."""
        dataset = self.batches.dataset
        if dataset.root is not None:
            return 1
        block_bytes = self.batches.batch_size * math.prod(dataset.shape) * FLOAT_BYTES
        return min(max(TOGETHER_BYTES // block_bytes, 1), STOP_CHECK_BLOCKS)

    def _run_teacher(
        self, inputs: Tensor, fields: tuple[str, ...], stages: list[str]
    ) -> dict[str, Tensor]:
        """Return the outputs on the inputs, by part; the teacher gets one block after the other.

        A block is copied out of several: a matrix product may depend on the alignment of its
        operands.
        """
        blocks, results = torch.split(inputs, self.batches.batch_size), []
        for block in blocks:
            output, maps = self.teacher.compute_with_maps(
                block.clone() if len(blocks) > 1 else block, stages
            )
            results.append(
                [getattr(output, name) for name in fields]
                + [maps[stage].flatten(1) for stage in stages]
            )
        names = [*fields, *(f"{MAP}{stage}" for stage in stages)]
        return dict(zip(names, map(torch.cat, zip(*results, strict=True)), strict=True))

    def _gather(self, values: Tensor) -> Array:
        """Return the rows of all ranks in the order of the samples: the ranks' blocks alternate."""
        blocks = [
            each.view(-1, self.batches.batch_size, each.shape[1])
            for each in self.context.all_gather(values)
        ]
        return torch.stack(blocks, dim=1).flatten(0, 2).cpu().numpy()

    def _open(
        self,
        missing: Files,
        rows: dict[str, Array],
        writers: dict[str, Writer],
        stack: contextlib.ExitStack,
    ) -> None:
        """Open the writers of the missing files, which reserve disk space, unless they are open."""
        if not writers:
            with contextlib.ExitStack() as new_stack:
                new_writers = {
                    part: new_stack.enter_context(self._writer(file, rows[part]))
                    for part, file in missing.items()
                }
                stack.push(new_stack.pop_all())
            writers |= new_writers

    def _writer(self, file: Path, rows: Array) -> Writer:
        return self.sharing.cache.writer(file, self.samples, rows.shape[1], self.dtype)

    def _write(self, rows: dict[str, Array], writers: dict[str, Writer]) -> PreflightError | None:
        """Write the rows; return an error instead of raising it.

        The other ranks are in the middle of the pass.
        """
        try:
            for part, writer in writers.items():
                writer.add(self._cast(part, rows[part]))
        except PreflightError as error:
            return error
        return None

    def _cast(self, part: str, rows: Array) -> Array:
        with np.errstate(over="ignore"):
            cast = rows.astype(self.dtype)
        if not np.isfinite(cast).all():
            part = f"feature maps of {part.removeprefix(MAP)}" if part.startswith(MAP) else part
            if np.isfinite(rows).all():
                raise PreflightError(
                    f"the teacher's {part} exceed the range of {self.dtype}: set "
                    f"teacher.dtype=float32"
                ).with_details("teacher.dtype", self.dtype, ("float32",))
            raise PreflightError(
                f"the teacher's {part} are not finite: {self.teacher.remedy}"
            ).with_details("teacher", part, "finite values")
        return cast


def _finish_writers(writers: dict[str, Writer], failure: PreflightError | None) -> None:
    if failure:
        raise failure
    for writer in writers.values():
        writer.finish()
