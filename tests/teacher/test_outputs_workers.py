"""Test two workers that share a teacher pass (gloo): bit-identical results for any folders."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from filelock import FileLock

from orchestrator.config.loader import load
from orchestrator.core import disk
from orchestrator.core.context import Stopped, TrialContext
from orchestrator.core.errors import PreflightError
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.prepare import prepare
from orchestrator.data.views import Views
from orchestrator.models.build import build
from orchestrator.teacher import outputs
from orchestrator.teacher.cache import Cache
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.teacher.outputs import CachedTeacher
from tests.process_group import on_every_rank

CPU = torch.device("cpu")
WORKERS, BATCH, VIEWS = 2, 32, range(4)
FILES = {"clean.npy", "clean-features.npy", "view-00000.npy"}
# 35 blocks of 32: an odd number for two workers, and the last one is not full
PAIRS = (
    "data.limit.train=1100",
    "data.limit.validation=20",
    "data.limit.test=20",
    "data.augmentation=crop_flip",
    "data.mixing=cutmix",
)


def source(
    root: Path, folder: str, context: TrialContext, upcoming: Sequence[int] = ()
) -> CachedTeacher:
    configuration = load(None, list(PAIRS))
    dataset = Dataset.open(prepare(configuration.data, root, 0))
    torch.manual_seed(3)
    teacher = FrozenTeacher(build("resnet8", 10, dataset.shape, {}), "of two workers")
    views = Views.from_config(dataset, configuration.data, 0)
    batches = Batches(dataset, views, BATCH, 0, rank=context.rank, world_size=context.world_size)
    cache = Cache(root / folder, 2**24)
    return CachedTeacher(teacher, batches, cache, "float32", context, 10, (), upcoming)


def fill(cached_teacher: CachedTeacher) -> dict[str, float]:
    cached_teacher.open_view(None, features=True)
    cached_teacher.open_view(0)
    return cached_teacher.counts()


def fill_views(cached_teacher: CachedTeacher) -> dict[str, float]:
    """Open several views; all that may be computed ahead are."""
    with patch.object(outputs, "AHEAD_S", 1e6):
        for view in VIEWS:
            cached_teacher.open_view(view)
    return cached_teacher.counts()


@contextlib.contextmanager
def full_at_first() -> Iterator[None]:
    """Simulate a full disk for the first two allocations."""
    allocate, refusals = os.posix_fallocate, iter(range(2))

    def refuse(descriptor: int, start: int, size: int) -> None:
        if next(refusals, None) is not None:
            raise OSError(28, "No space left on device")
        allocate(descriptor, start, size)

    with patch("os.posix_fallocate", refuse):
        yield


def worker(rank: int, world_size: int, root: Path) -> dict[str, Any]:
    """Run one rank: shared folders, its own, and a disk that is full only for the first rank."""
    context = TrialContext(rank, world_size, CPU)
    results: dict[str, Any] = {
        "shared": fill(source(root, "shared", context)),
        "again": fill(source(root, "shared", context)),
    }
    results["own"] = fill(source(root, f"own-{rank}", context))
    own = source(root, f"own-{rank}", context)
    if rank == 1:
        own.files(0)["logits"].unlink()
    own.open_view(0)
    results["one lost"] = own.counts()
    results["ahead"] = fill_views(source(root, "ahead", context, VIEWS))
    own = source(root, f"ahead-{rank}", context, VIEWS)
    fill_views(own)
    if rank == 1:
        for view in (0, 1):
            own.files(view)["logits"].unlink()
    results["ahead of own"] = fill_views(source(root, f"ahead-{rank}", context, VIEWS))
    results["notes"] = []
    with (
        patch.object(disk, "POLL_S", 0.001),
        full_at_first() if rank == 0 else contextlib.nullcontext(),
    ):
        results["full"] = fill(
            source(root, f"full-{rank}", replace(context, note=results["notes"].append))
        )
    for name in ("acquire", "open"):  # the lock of a view, then its file, only on the first rank
        cached_teacher = source(root, f"broken-{name}" if name == "acquire" else "shared", context)
        broken = {"acquire": (FileLock, "acquire"), "open": (Path, "open")}[name]
        with (
            patch.object(*broken, side_effect=PermissionError(13, "Permission denied"))
            if rank == 0
            else contextlib.nullcontext()
        ):
            try:
                cached_teacher.open_view(0)
            except PreflightError as error:
                results[name] = error.value
        results[f"after {name}"] = context.all_gather_object(f"rank {rank}")
    stopping = TrialContext(rank, world_size, CPU, stop_requested=lambda: True)
    try:
        source(root, "stopped", stopping).open_view(0)
    except Stopped:
        results["stopped"] = True
    return results


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the caches, one of which a single worker has filled."""
    folder = tmp_path_factory.mktemp("pass")
    fill(source(folder, "alone", TrialContext()))
    fill_views(source(folder, "views", TrialContext()))
    return folder


@pytest.fixture(scope="module")
def results(root: Path) -> list[dict[str, Any]]:
    """Return the results of two workers after both have filled the other caches."""
    return on_every_rank(WORKERS, worker, root)


def files(root: Path, folder: str) -> dict[str, Path]:
    return {file.name: file for file in (root / folder).glob("*/*.npy")}


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("folder", ["shared", "own-0", "own-1", "full-0", "full-1"])
def test_two_workers_give_the_same_bits_as_one(root: Path, folder: str) -> None:
    alone, other = files(root, "alone"), files(root, folder)
    assert set(alone) == set(other) == FILES
    for name, file in alone.items():
        assert file.read_bytes() == other[name].read_bytes(), name
        assert np.isfinite(np.load(file)).all() and np.load(file).std() > 0


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize("folder", ["ahead", "ahead-0", "ahead-1"])
def test_views_computed_ahead_have_the_bits_of_single_ones(root: Path, folder: str) -> None:
    single, ahead = files(root, "views"), files(root, folder)
    assert set(single) == set(ahead) == {f"view-{view:05d}.npy" for view in VIEWS}
    assert all(file.read_bytes() == ahead[name].read_bytes() for name, file in single.items())


@pytest.mark.parametrize("rank", range(WORKERS))
def test_all_ranks_count_views_computed_ahead_when_they_are_opened(
    results: list[dict[str, Any]], rank: int
) -> None:
    assert results[rank]["ahead"] == {"hits": 0, "misses": 4}
    assert results[rank]["ahead of own"] == {"hits": 2, "misses": 2}, "one rank lost two views"


@pytest.mark.parametrize("rank", range(WORKERS))
def test_every_rank_counts_the_hits_and_misses_of_the_group(
    results: list[dict[str, Any]], rank: int
) -> None:
    result = results[rank]
    assert result["shared"] == result["own"] == result["full"] == {"hits": 0, "misses": 2}
    assert result["again"] == {"hits": 2, "misses": 0}


@pytest.mark.parametrize("rank", range(WORKERS))
def test_all_ranks_compute_a_view_that_one_node_lost(
    results: list[dict[str, Any]], rank: int
) -> None:
    assert results[rank]["one lost"] == {"hits": 0, "misses": 1}


@pytest.mark.parametrize("rank", range(WORKERS))
def test_all_ranks_wait_for_the_full_disk_of_one_and_the_first_reports_it(
    results: list[dict[str, Any]], rank: int
) -> None:
    result = [
        ("is full" in note, "has free space again" in note) for note in results[rank]["notes"]
    ]
    assert result == ([(True, False), (False, True)] if rank == 0 else [])


@pytest.mark.parametrize("rank", range(WORKERS))
@pytest.mark.parametrize("name", ["acquire", "open"])
def test_an_error_on_one_rank_is_raised_on_all_and_keeps_them_in_step(
    results: list[dict[str, Any]], name: str, rank: int
) -> None:
    result = results[rank]
    assert result[name] == "Permission denied"
    assert result[f"after {name}"] == ["rank 0", "rank 1"]


@pytest.mark.parametrize("rank", range(WORKERS))
def test_a_stop_request_is_obeyed_within_a_pass(
    root: Path, results: list[dict[str, Any]], rank: int
) -> None:
    assert results[rank]["stopped"] and not files(root, "stopped")
