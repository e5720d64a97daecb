"""What the teacher says about a view: asked at every step, or once per view for everybody who asks afterwards.

Knows the teacher, the views and the cache; not who trains on it.
"""

import time
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods import Output
from orchestrator.context import TrialContext
from orchestrator.data import Batches, Inputs
from orchestrator.data.memory import sent
from orchestrator.errors import EnvironmentUnfitError
from orchestrator.teacher.cache import Array, Cache
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.teacher.shared_pass import Files, SharedPass

ATTEMPTS = 6  # a view may be removed between its pass and its use when the limit is small


class OnlineTeacher:
    """Asks the teacher at every step."""

    def __init__(self, teacher: FrozenTeacher) -> None:
        self.teacher = teacher

    def open_view(self, view: int | None, features: bool = False) -> None:
        """Nothing to open."""

    def answer(self, batch: Inputs) -> Output:
        """Logits (B, K) and features (B, D)."""
        output: Output = self.teacher(batch.inputs)
        return output

    def counts(self) -> dict[str, float]:
        """No view is looked up."""
        return {}

    def notes(self) -> list[str]:
        """Nothing to say."""
        return []


class CachedTeacher:
    """Asks the teacher once per view: logits (n, K) and, of the clean view, features (n, D), in the order of the training part.

    All ranks call its methods together, `answer` and `everything` aside.
    """

    def __init__(
        self, teacher: FrozenTeacher, batches: Batches, cache: Cache, dtype: str, context: TrialContext, wait_s: float
    ) -> None:
        self.batches, self.cache, self.context = batches, cache, context
        self.shared_pass = SharedPass(teacher, batches, cache, dtype, context, wait_s)
        about = {"teacher": teacher.fingerprint, "precision": teacher.precision, "dtype": dtype, "data": batches.dataset.content}
        self.about: dict[bool, dict[str, Any]] = {
            True: about,
            False: about | batches.views.identity(),
        }  # of the clean view; of others
        self.found: Counter[str] = Counter()
        self.arrays: dict[str, Array] = {}
        self.resident: dict[str, Tensor] = {}

    def open_view(self, view: int | None, features: bool = False) -> None:
        """Map what is known of a view, asking the teacher first if nobody did.

        Features are kept of the clean view (None) alone. EnvironmentUnfitError when another process holds the lock without
        a sign of life, or the cache cannot be used; Stopped when somebody asks for the end meanwhile.
        """
        assert view is None or not features, "features are of the clean view"
        files = self.files(view, features)
        self.arrays, self.resident = {}, {}
        for attempt in range(ATTEMPTS):
            self._wait_for_others(attempt)
            if self._mapped(files):
                self.found["hits"] += attempt == 0
                return
            self.found["misses" if self.shared_pass.fill(view, files) else "hits"] += 1
        raise EnvironmentUnfitError(f"{next(iter(files.values()))} was removed as soon as it was there: raise teacher.cache_gib")

    def answer(self, batch: Inputs) -> Output:
        """Logits (B, K) of the view that is open, float32, and its features (B, D), empty if they were not asked for."""
        logits = self._rows("logits", batch)
        features = self._rows("features", batch) if "features" in self.arrays else logits.new_empty(len(logits), 0)
        return Output(logits, features)

    def everything(self) -> tuple[Tensor, Tensor | None]:
        """Logits (n, K) and features (n, D), if they were asked for, of the view that is open, float32, on the CPU."""
        logits = torch.from_numpy(self.arrays["logits"].astype(np.float32))
        features = self.arrays.get("features")
        return logits, None if features is None else torch.from_numpy(features.astype(np.float32))

    def counts(self) -> dict[str, float]:
        """Views found and views computed since the last call: `hits`, `misses`."""
        counted = {name: float(self.found[name]) for name in ("hits", "misses")}
        self.found.clear()
        return counted

    def notes(self) -> list[str]:
        """What a person should hear of the cache since the last call, from all ranks."""
        return list(dict.fromkeys(note for notes in self.context.gather(self.cache.take_notes()) for note in notes))

    def files(self, view: int | None, features: bool = False) -> Files:
        """Where the logits of a view lie and, if asked for, its features."""
        folder = self.cache.folder(self.about[view is None])
        if view is not None:
            return {"logits": folder / f"view-{view:05d}.npy"}
        return {"logits": folder / "clean.npy"} | ({"features": folder / "clean-features.npy"} if features else {})

    def _wait_for_others(self, attempt: int) -> None:
        """A folder that nodes share may show a new file late."""
        for _ in range(2**attempt if attempt > 1 else 0):
            time.sleep(1)
            self.context.alive()

    def _mapped(self, files: Files) -> bool:
        """Whether every rank could map every file."""
        arrays = self.context.together(lambda: self.cache.read_all(files))
        if not all(self.context.gather(len(arrays) == len(files))):
            return False
        self.arrays = arrays
        if self.batches.resident:
            device = self.batches.device
            self.resident = {part: torch.from_numpy(np.array(array)).to(device) for part, array in arrays.items()}
        return True

    def _rows(self, part: str, batch: Inputs) -> Tensor:
        if part in self.resident:
            return self.resident[part].index_select(0, batch.index).float()
        rows = torch.from_numpy(self.arrays[part][batch.index.numpy()])
        return sent(rows, batch.inputs.device).float()
