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
    told: dict[str, Any] = {}
    exact = patch.object(ByClass, "nearest", autospec=True, side_effect=ByClass.nearest)
    with patch.object(retrieval, "QUERIES", 50), exact as search:
        told["shared"] = found(context, root / "shared")
        told["searches"] = search.call_count
        told["again"] = found(context, root / "shared")
        told["searches again"] = search.call_count - told["searches"]
        told["own"] = found(context, root / f"own-{rank}")
        told["none"] = found(context)
        told["approximate"] = found(context, approximate=True)
        notes: list[str] = []
        refused = patch(
            "os.posix_fallocate", side_effect=[FULL, FULL, *[None] * 9] if rank == 1 else None
        )
        with refused, patch.object(disk, "POLL_S", 0.0):
            told["full"] = found(replace(context, note=notes.append), root / f"full-{rank}")
        told["notes"] = notes
        try:
            found(
                TrialContext(rank, world_size, CPU, stop_requested=lambda: True), root / "stopped"
            )
        except Stopped:
            told["stopped"] = True
    return told


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("neighbours")


@pytest.fixture(scope="module")
def told(root: Path) -> list[dict[str, Any]]:
    return on_every_rank(WORKERS, worker, root)


@pytest.mark.parametrize("rank", range(WORKERS))
@pytest.mark.parametrize("where", ["shared", "again", "own", "none", "full"])
def test_two_workers_find_what_one_does(told: list[dict[str, Any]], where: str, rank: int) -> None:
    alone, both = found(TrialContext()), told[rank][where]
    for name, value in alone.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(both[name], value)
    assert both["recall"] == 1.0


@pytest.mark.parametrize("rank", range(WORKERS))
def test_each_searches_its_share_once(told: list[dict[str, Any]], rank: int) -> None:
    assert told[rank]["searches"] == 4, "321 queries, 50 at a time of each worker"
    assert told[rank]["searches again"] == 0


def test_two_workers_say_the_same_of_an_index(told: list[dict[str, Any]]) -> None:
    first, second = (told[rank]["approximate"] for rank in range(WORKERS))
    assert (
        torch.equal(first["negatives"], second["negatives"])
        and first["recall"] == second["recall"] >= 0.95
    )


@pytest.mark.parametrize("rank", range(WORKERS))
def test_the_full_disk_of_one_is_waited_for_by_both_and_a_stop_heard(
    root: Path, told: list[dict[str, Any]], rank: int
) -> None:
    assert len(told[rank]["notes"]) == (2 if rank == 0 else 0) and told[rank]["stopped"], (
        "the first one says it"
    )
    assert not list(root.glob("stopped/*/*.npy"))
