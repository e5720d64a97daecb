"""Test that two workers (gloo) find what one finds, with a shared cache, separate ones, or none."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from methods import Knowledge
from methods.retrieval import ByClass
from orchestrator.core import disk
from orchestrator.core.context import Stopped, TrialContext
from orchestrator.teacher import retrieval
from orchestrator.teacher._rank_shared_files import RankSharedFiles
from orchestrator.teacher.cache import Cache
from orchestrator.teacher.retrieval import Retrieval
from tests.process_group import on_every_rank

CPU = torch.device("cpu")
WORKERS, ASKED = 2, (3, 5)
FULL = OSError(28, "No space left on device")


def knowledge() -> Knowledge:
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(-1, 4, (321,), generator=generator)
    return Knowledge(torch.zeros(321, 4), torch.randn(321, 8, generator=generator), labels)


def found(
    context: TrialContext, root: Path | None = None, approximate: bool = False
) -> dict[str, Any]:
    sharing = root and RankSharedFiles(Cache(root, 2**24), context, 20)
    return Retrieval(context, approximate, sharing or None, {"data": "these"})(
        knowledge(), *ASKED
    )._asdict()


def worker(rank: int, world_size: int, root: Path) -> dict[str, Any]:
    """Run one rank: shared folders, own ones, none, an index, the other's full disk, a stop."""
    context = TrialContext(rank, world_size, CPU)
    results: dict[str, Any] = {}
    exact = patch.object(ByClass, "nearest", autospec=True, side_effect=ByClass.nearest)
    with patch.object(retrieval, "QUERIES", 50), exact as search:
        results["shared"] = found(context, root / "shared")
        results["searches"] = search.call_count
        results["again"] = found(context, root / "shared")
        results["searches again"] = search.call_count - results["searches"]
        results["own"] = found(context, root / f"own-{rank}")
        results["none"] = found(context)
        results["approximate"] = found(context, approximate=True)
        notes: list[str] = []
        refused = patch(
            "os.posix_fallocate", side_effect=[FULL, FULL, *[None] * 9] if rank == 1 else None
        )
        with refused, patch.object(disk, "POLL_S", 0.0):
            results["full"] = found(replace(context, note=notes.append), root / f"full-{rank}")
        results["notes"] = notes
        try:
            found(
                TrialContext(rank, world_size, CPU, stop_requested=lambda: True), root / "stopped"
            )
        except Stopped:
            results["stopped"] = True
    return results


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("neighbours")


@pytest.fixture(scope="module")
def results(root: Path) -> list[dict[str, Any]]:
    return on_every_rank(WORKERS, worker, root)


@pytest.mark.parametrize("rank", range(WORKERS))
@pytest.mark.parametrize("where", ["shared", "again", "own", "none", "full"])
def test_two_workers_find_the_same_neighbours_as_one(
    results: list[dict[str, Any]], where: str, rank: int
) -> None:
    alone, both = found(TrialContext()), results[rank][where]
    for name, value in alone.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(both[name], value)
    assert both["recall"] == 1.0


@pytest.mark.parametrize("rank", range(WORKERS))
def test_each_worker_searches_its_share_once(results: list[dict[str, Any]], rank: int) -> None:
    assert results[rank]["searches"] == 4, "321 queries in blocks of 50 per worker"
    assert results[rank]["searches again"] == 0


def test_two_workers_get_the_same_results_from_an_index(results: list[dict[str, Any]]) -> None:
    first, second = (results[rank]["approximate"] for rank in range(WORKERS))
    assert (
        torch.equal(first["negatives"], second["negatives"])
        and first["recall"] == second["recall"] >= 0.95
    )


@pytest.mark.parametrize("rank", range(WORKERS))
def test_both_workers_wait_for_the_full_disk_of_one_and_obey_a_stop(
    root: Path, results: list[dict[str, Any]], rank: int
) -> None:
    assert len(results[rank]["notes"]) == (2 if rank == 0 else 0) and results[rank]["stopped"], (
        "only the first rank reports it"
    )
    assert not list(root.glob("stopped/*/*.npy"))
