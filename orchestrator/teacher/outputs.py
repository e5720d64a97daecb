"""What the teacher says about a view: asked at every step, or once per view for everybody who asks afterwards.

Knows the teacher, the views and the cache; not who trains on it.
"""

import warnings
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods import Output
from orchestrator.core.context import TrialContext
from orchestrator.data.batches import Batches
from orchestrator.data.memory import to_device
from orchestrator.data.passes import Inputs
from orchestrator.teacher._rank_shared_files import Files, RankSharedFiles
from orchestrator.teacher._shared_pass import SharedPass
from orchestrator.teacher.cache import Array, Cache
from orchestrator.teacher.frozen import FrozenTeacher


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
        self.sharing = RankSharedFiles(cache, context, wait_s)
        self.shared_pass = SharedPass(teacher, batches, dtype, self.sharing)
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

        Features are kept of the clean view (None) alone. PreflightError when another process holds the lock without
        a sign of life, or the cache cannot be used; Stopped when somebody asks for the end meanwhile.
        """
        assert view is None or not features, "features are of the clean view"
        self.arrays, self.resident = {}, {}
        self.arrays, asked = self.shared_pass.open(view, self.files(view, features))
        self.found["misses" if asked else "hits"] += 1

    def answer(self, batch: Inputs) -> Output:
        """Logits (B, K) of the view that is open, float32, and its features (B, D), empty if they were not asked for."""
        logits = self._rows("logits", batch)
        features = self._rows("features", batch) if "features" in self.arrays else logits.new_empty(len(logits), 0)
        return Output(logits, features)

    def everything(self) -> tuple[Tensor, Tensor | None]:
        """Of the view that is open, on the CPU: logits (n, K) float32; features (n, D), if asked for, mapped and not read."""
        logits = torch.from_numpy(self.arrays["logits"].astype(np.float32))
        features = self.arrays.get("features")
        return logits, None if features is None else mapped(features)

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

    def _rows(self, part: str, batch: Inputs) -> Tensor:
        if self.batches.on_device:
            if part not in self.resident:
                self.resident[part] = torch.from_numpy(np.array(self.arrays[part])).to(self.batches.device)
            return self.resident[part].index_select(0, batch.index).float()
        rows = torch.from_numpy(self.arrays[part][batch.index.numpy()])
        return to_device(rows, batch.inputs.device).float()


def mapped(array: Array) -> Tensor:
    """An array that must not be written to, as a tensor of the same memory."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
