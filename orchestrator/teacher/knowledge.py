"""What the teacher says about a view, computed once and memory-mapped by everybody who asks afterwards.

Knows files, locks and the teacher; not who trains on it. The folder is a fingerprint of
the teacher's weights, data, views and dtype.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from methods import Output
from orchestrator.context import TrialContext
from orchestrator.data import Batches, Inputs
from orchestrator.errors import EnvironmentUnfitError
from orchestrator.store import replacing
from orchestrator.teacher.frozen import FrozenTeacher


class OnlineTeacher:
    """Asks the teacher at every step."""

    def __init__(self, teacher: FrozenTeacher) -> None:
        self.teacher = teacher

    def open_view(self, view: int | None) -> None:
        """Nothing to open."""

    def answer(self, batch: Inputs) -> Output:
        """Logits (B, K) and features (B, D)."""
        output: Output = self.teacher(batch.inputs)
        return output


class CachedTeacher:
    """Asks the teacher once per view: logits of shape (n, K) in a file per view, in the order of the training part."""

    def __init__(
        self, teacher: FrozenTeacher, batches: Batches, root: Path, dtype: str, context: TrialContext, wait_s: float
    ) -> None:
        self.teacher, self.batches, self.context = teacher, batches, context
        self.dtype, self.wait_s = dtype, wait_s
        self.folder = root / _fingerprint(teacher, batches, dtype)
        self.logits: np.ndarray | None = None

    def open_view(self, view: int | None) -> None:
        """Map the logits of a view, filling the file first if nobody did; all ranks call this together."""
        self.logits = None
        file = self.folder / ("clean.npy" if view is None else f"view-{view:05d}.npy")
        missing = self.context.share(not file.exists() if self.context.leads else None)
        if missing:
            self._fill(file, view)
        self.logits = np.load(file, mmap_mode="r")

    def answer(self, batch: Inputs) -> Output:
        """Logits (B, K) of the view that is open, float32; the features are empty."""
        assert self.logits is not None, "open_view comes first"
        logits = torch.from_numpy(self.logits[batch.index.numpy()]).to(batch.inputs.device, non_blocking=True)
        return Output(logits.float(), logits.new_empty(len(logits), 0))

    def everything(self) -> Tensor:
        """Logits (n, K) of the whole view that is open, float32, on the CPU."""
        assert self.logits is not None, "open_view comes first"
        return torch.from_numpy(self.logits.astype(np.float32))

    def _fill(self, file: Path, view: int | None) -> None:
        """Rank 0 holds the lock while every rank computes its share; whoever waited finds the file there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{file}.lock", timeout=self.wait_s)
        if not self.context.share(_acquired(lock) if self.context.leads else None):  # all ranks give up together
            raise EnvironmentUnfitError(f"waited {self.wait_s:g} s for another process to fill {file}: see what holds {file}.lock")
        try:
            if self.context.share(not file.exists() if self.context.leads else None):
                parts = self.context.gather(self._share_of(view))
                if self.context.leads:
                    self._write(file, parts)
            self.context.share()
        finally:
            lock.release()

    def _share_of(self, view: int | None) -> tuple[np.ndarray, np.ndarray]:
        indices: list[Tensor] = []
        logits: list[Tensor] = []
        for batch in self.batches.ordered("train", view):
            indices.append(batch.index)
            logits.append(self.teacher(batch.inputs).logits.cpu())
            self.context.alive()
        return torch.cat(indices).numpy(), torch.cat(logits).numpy().astype(self.dtype)

    def _write(self, file: Path, parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
        values = np.empty((sum(len(index) for index, _ in parts), parts[0][1].shape[1]), dtype=self.dtype)
        for index, logits in parts:
            values[index] = logits
        with replacing(file) as aside, open(aside, "wb") as stream:
            np.save(stream, values)


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire()
    except Timeout:
        return False
    return True


def _fingerprint(teacher: FrozenTeacher, batches: Batches, dtype: str) -> str:
    views = batches.views
    parts = [teacher.fingerprint, batches.dataset.fingerprint, views.policy, views.pad, views.seed, dtype]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
