"""Test that tiny views are computed before they are opened, with the same bits."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import Stopped, TrialContext
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.views import Views
from orchestrator.teacher import _shared_pass, outputs
from orchestrator.teacher.cache import Cache, Lock
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.teacher.outputs import CachedTeacher

SAMPLES, BATCH = 100, 24  # the last of five blocks is not full
VIEW_BYTES = SAMPLES * 10 * 4
Specify = Callable[..., TrialSpec]
MakeTeacher = Callable[..., Path]


class Counting(FrozenTeacher):
    """A teacher that records the sizes of its batches."""

    def compute_with_maps(self, inputs: torch.Tensor, stages: Sequence[str]) -> Any:
        """Return the teacher's output and feature maps."""
        self.sizes = [*getattr(self, "sizes", []), len(inputs)]
        return super().compute_with_maps(inputs, stages)


@pytest.fixture
def open_source(
    specify: Specify, make_teacher: MakeTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., CachedTeacher]:
    """Return a function that opens a source; time does not limit what it computes ahead."""
    monkeypatch.setattr(outputs, "AHEAD_S", 1e6)
    spec = specify(
        f"data.limit.train={SAMPLES}",
        "data.limit.validation=40",
        "data.limit.test=40",
        "data.augmentation=crop",
    )
    folder = make_teacher(spec.data, width=16)

    def open_source(
        name: str = "cache",
        views: Sequence[int] = (),
        limit_bytes: int = 2**24,
        context: TrialContext | None = None,
    ) -> CachedTeacher:
        dataset = Dataset.open(spec.data)
        batches = Batches(dataset, Views("crop", 0, len(dataset.train), 1), BATCH, 0)
        teacher = Counting.open(folder, torch.device("cpu"))
        cache = Cache(tmp_path / name, limit_bytes)
        return CachedTeacher(
            teacher, batches, cache, "float32", context or TrialContext(), 5, (), views
        )

    return open_source


def views_of(source: CachedTeacher) -> list[int]:
    """Return the views in the cache."""
    return sorted(int(file.stem[5:]) for file in source.cache.root.glob("*/view-*.npy"))


def test_as_many_views_are_computed_ahead_as_were_opened(
    open_source: Callable[..., CachedTeacher],
) -> None:
    source = open_source(views=range(9))
    present = []
    for view in range(9):
        source.open_view(view)
        present.append(len(views_of(source)))
    assert present == [2, 2, 6, 6, 6, 6, 9, 9, 9]


@pytest.mark.parametrize("together_bytes", [1, 2**22])
def test_views_computed_ahead_have_the_bits_of_single_ones(
    open_source: Callable[..., CachedTeacher], monkeypatch: pytest.MonkeyPatch, together_bytes: int
) -> None:
    single, ahead = open_source("single"), open_source("ahead", range(7))
    monkeypatch.setattr(_shared_pass, "TOGETHER_BYTES", 1)
    for view in range(7):
        single.open_view(view)
    monkeypatch.setattr(_shared_pass, "TOGETHER_BYTES", together_bytes)
    for view in range(7):
        ahead.open_view(view)
        for batch in ahead.batches.train(0, view):
            expected = ahead.shared_pass.teacher(batch.inputs).logits
            assert torch.equal(ahead.answer(batch).logits, expected)
    for view in range(7):
        files = [source.files(view)["logits"].read_bytes() for source in (single, ahead)]
        assert files[0] == files[1]


def test_the_teacher_sees_blocks_of_the_batch_size(
    open_source: Callable[..., CachedTeacher],
) -> None:
    source = open_source(views=range(4))
    for view in range(4):
        source.open_view(view)
    assert source.shared_pass.teacher.sizes == [BATCH] * 5 * 4


def test_every_view_is_computed_once_and_counted_when_it_is_opened(
    open_source: Callable[..., CachedTeacher],
) -> None:
    one, two = open_source(views=range(6)), open_source(views=range(6))
    counts = []
    for view in range(6):
        for source in (one, two):
            source.open_view(view)
            counts.append(source.counts()["misses"])
    assert counts == [1, 0] * 6, "the first source computes each view, the second finds it"
    one.open_view(0)
    assert one.counts() == {"hits": 1, "misses": 0}


def test_a_view_that_another_process_computes_is_left_out(
    open_source: Callable[..., CachedTeacher],
) -> None:
    source = open_source(views=(0, 1, 2, 3, 4, 5))
    source.open_view(0)
    lock, held, done = Lock(source.files(4)["logits"]), threading.Event(), threading.Event()

    def hold() -> None:
        assert lock.acquire_now()
        held.set()
        done.wait()
        lock.release()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    source.open_view(1)
    source.open_view(2)
    assert views_of(source) == [0, 1, 2, 3, 5]
    done.set()
    holder.join()
    source.open_view(4)
    assert views_of(source) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("views_held", "ahead"), [(3, 0), (9, 2)])
def test_views_ahead_use_a_quarter_of_the_cache(
    open_source: Callable[..., CachedTeacher], views_held: int, ahead: int
) -> None:
    source = open_source(views=range(20), limit_bytes=views_held * (VIEW_BYTES + 160))
    source.opened = 10
    for view in range(12):
        before = set(views_of(source))
        source.open_view(view)
        assert len(views_of(source)) <= views_held
        assert len(set(views_of(source)) - before - {view}) <= ahead
        for batch in source.batches.train(0, view):
            expected = source.shared_pass.teacher(batch.inputs).logits
            assert torch.equal(source.answer(batch).logits, expected)
    assert np.mean(np.diff(views_of(source))) == 1


def test_other_views_and_a_slow_teacher_compute_nothing_ahead(
    open_source: Callable[..., CachedTeacher], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_source(views=(3, 4))
    source.open_view(0)
    source.open_view(None)
    assert views_of(source) == [0]
    monkeypatch.setattr(outputs, "AHEAD_S", 1e-9)
    source.open_view(3)
    assert views_of(source) == [0, 3]


def test_a_stop_request_ends_what_is_computed_ahead(
    open_source: Callable[..., CachedTeacher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_shared_pass, "STOP_CHECK_BLOCKS", 1)
    root = tmp_path / "cache"
    context = TrialContext(stop_requested=lambda: any(root.glob("*/view-00002.npy")))
    source = open_source(views=range(5), context=context)
    source.open_view(0)
    source.open_view(1)
    source.open_view(2)
    assert views_of(source) == [0, 1, 2], "views 3 and 4 were to be computed ahead"
    with pytest.raises(Stopped):
        source.open_view(3)
    assert all(Lock(source.files(view)["logits"]).acquire_now() for view in range(5))
