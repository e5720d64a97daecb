"""Provide the teacher's outputs on a view: computed at every step, or cached once per view."""

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods import Output
from orchestrator.core.context import Stopped, TrialContext
from orchestrator.data.batches import Batches
from orchestrator.data.memory import SMALL_BYTES, map_array, to_device
from orchestrator.data.passes import Inputs
from orchestrator.models.feature_maps import map_shapes
from orchestrator.teacher._rank_shared_files import Files, RankSharedFiles
from orchestrator.teacher._shared_pass import MAP, SharedPass
from orchestrator.teacher.cache import Array, Cache
from orchestrator.teacher.frozen import FrozenTeacher

AHEAD_S = 0.5  # for views that are computed before they are opened
AHEAD_SHARE = 4  # of the cache, this part may hold them


class OnlineTeacher:
    """A teacher that runs at every step.

    Attributes:
        maps: Feature maps (B, C, H, W) of the last batch, by stage.
    """

    def __init__(self, teacher: FrozenTeacher, stages: Sequence[str] = ()) -> None:
        self.teacher, self.stages = teacher, stages
        self.maps: dict[str, Tensor] = {}

    def open_view(self, view: int | None, features: bool = False, maps: bool = False) -> None:
        """Do nothing: no view has to be opened."""

    def answer(self, batch: Inputs) -> Output:
        """Return logits (B, K) and features (B, D)."""
        output, self.maps = self.teacher.compute_with_maps(batch.inputs, self.stages)
        return output

    def counts(self) -> dict[str, float]:
        """Return no counts: no view is looked up."""
        return {}

    def notes(self) -> list[str]:
        """Return no notes."""
        return []


class CachedTeacher:
    """A teacher that runs once per view; its outputs are cached.

    The cache holds logits (n, K) and, for the clean view, features (n, D) and feature maps (n, C H
    W), in the order of the training part. All ranks call its methods together, except `answer` and
    `read_all_outputs`.

    Args:
        teacher: The teacher.
        batches: The batches of the training part.
        cache: The cache.
        dtype: The NumPy type of the cached arrays.
        context: The context of the ranks.
        wait_s: Longest wait in seconds for a lock whose owner's heartbeat has stopped.
        stages: Stages whose feature maps are cached for the clean view.
        views: The augmented views that will be opened, in this order. Tiny views are computed
            before they are opened, several at once.
    """

    def __init__(
        self,
        teacher: FrozenTeacher,
        batches: Batches,
        cache: Cache,
        dtype: str,
        context: TrialContext,
        wait_s: float,
        stages: Sequence[str] = (),
        views: Sequence[int] = (),
    ) -> None:
        self.batches, self.cache, self.context = batches, cache, context
        self.sharing = RankSharedFiles(cache, context, wait_s)
        self.shared_pass = SharedPass(teacher, batches, dtype, self.sharing)
        about = {
            "teacher": teacher.fingerprint,
            "precision": teacher.precision,
            "dtype": dtype,
            "data": batches.dataset.content,
        }
        self.about: dict[bool, dict[str, Any]] = {
            True: about,
            False: about | batches.views.identity(),
        }  # True: the clean view; False: other views
        self.lookups: Counter[str] = Counter()
        self.views, self.opened = views, 0
        self.computed_ahead: set[int] = set()  # and not opened since
        self.arrays: dict[str, Array] = {}
        self.tables: dict[str, Tensor] = {}  # the arrays that were used
        self.files_of_tables: Files = {}
        self.shapes = map_shapes(teacher.network, batches.dataset.shape, stages) if stages else {}
        self.maps: dict[str, Tensor] = {}  # of the last batch, (B, C, H, W) float32

    def open_view(self, view: int | None, features: bool = False, maps: bool = False) -> None:
        """Map the outputs on a view; compute them first on a cache miss.

        Args:
            view: Index of the augmented view; None for the clean view.
            features: Whether to map features, which are cached for the clean view alone.
            maps: Whether to map feature maps, which are cached for the clean view alone.

        Raises:
            PreflightError: Another process holds the lock without a heartbeat, or the cache cannot
                be used.
            Stopped: A stop of the trial was requested meanwhile.
        """
        assert view is None or not (features or maps), "these are cached for the clean view only"
        files = self.files(view, features, maps)
        if files != self.files_of_tables:
            self.files_of_tables, self.tables = files, {}
        self.arrays = {}
        start = time.perf_counter()
        self.arrays, computed = self.shared_pass.open(view, files)
        seconds = time.perf_counter() - start
        is_miss = computed or view in self.computed_ahead
        self.lookups["misses" if is_miss else "hits"] += 1
        if view is not None and view in self.views:
            self.opened += 1
            self.computed_ahead.discard(view)
            if computed:
                self._compute_ahead(view, seconds)

    def _compute_ahead(self, view: int, seconds: float) -> None:
        """Compute views that will be opened after `view`, whose pass took `seconds`.

        They are at most as many as were opened, because a trial may be stopped early, take about
        `AHEAD_S`, and use a small part of the cache.
        """
        fitting = self.cache.limit_bytes // (AHEAD_SHARE * self.arrays["logits"].nbytes)
        count = min(self.opened, int(AHEAD_S / seconds), fitting)
        first = self.views.index(view) + 1
        following = self.views[first : first + self.context.broadcast_object(count)]
        if following:
            files = {each: self.files(each)["logits"] for each in following}
            with contextlib.suppress(Stopped):  # the caller, whose view is open, obeys it too
                self.computed_ahead.update(self.shared_pass.create_ahead(files))

    def answer(self, batch: Inputs) -> Output:
        """Return the outputs on the open view, float32.

        Returns:
            Logits (B, K), and features (B, D), or (B, 0) if they were not requested.
        """
        logits = self._rows("logits", batch)
        if "features" in self.arrays:
            features = self._rows("features", batch)
        else:
            features = logits.new_empty(len(logits), 0)
        self.maps = {
            stage: self._rows(part, batch).view(-1, *shape)
            for stage, shape in self.shapes.items()
            if (part := f"{MAP}{stage}") in self.arrays
        }
        return Output(logits, features)

    def read_all_outputs(self) -> tuple[Tensor, Tensor | None]:
        """Return all outputs on the open view, on the CPU.

        Returns:
            Logits (n, K) float32, and features (n, D), memory-mapped and not read; None if they
            were not requested.
        """
        logits = torch.from_numpy(self.arrays["logits"].astype(np.float32))
        features = self.arrays.get("features")
        return logits, None if features is None else map_array(features)

    def counts(self) -> dict[str, float]:
        """Return the cache `hits` and `misses`, in views, since the last call."""
        counted = {name: float(self.lookups[name]) for name in ("hits", "misses")}
        self.lookups.clear()
        return counted

    def notes(self) -> list[str]:
        """Return the cache's messages for users since the last call, from all ranks."""
        return list(
            dict.fromkeys(
                note
                for notes in self.context.all_gather_object(self.cache.take_notes())
                for note in notes
            )
        )

    def files(self, view: int | None, features: bool = False, maps: bool = False) -> Files:
        """Return the file of a view's logits and, on request, those of its features and maps."""
        folder = self.cache.folder(self.about[view is None])
        if view is not None:
            return {"logits": folder / f"view-{view:05d}.npy"}
        parts = ["features"] * features + [f"{MAP}{stage}" for stage in self.shapes if maps]
        return {"logits": folder / "clean.npy"} | {
            part: folder / f"clean-{part}.npy" for part in parts
        }

    def _rows(self, part: str, batch: Inputs) -> Tensor:
        """Return the rows of a part for a batch, float32, on the device of the batch."""
        if part not in self.tables:
            self.tables[part] = self._load_table(part)
        table = self.tables[part]
        rows = table.index_select(0, to_device(batch.index, table.device))
        return to_device(rows, batch.inputs.device).float()

    def _load_table(self, part: str) -> Tensor:
        """Return a part on the device if the images are there, else in memory if it is small."""
        array = self.arrays[part]
        if self.batches.on_device and not part.startswith(MAP):  # maps may not fit there
            return torch.from_numpy(np.array(array)).to(self.batches.device)
        if array.size * torch.float32.itemsize <= SMALL_BYTES:
            return torch.from_numpy(array.astype(np.float32))
        return map_array(array)
