"""Test that the FAISS index is almost exact, measures its recall, and coexists with torch."""

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.retrieval import ByClass
from orchestrator.core.errors import PreflightError
from orchestrator.teacher import faiss_index
from orchestrator.teacher.faiss_index import FaissIndex
from tests.refusal import refused

CLASSES, SAMPLES, POSITIVES, NEGATIVES = 5, 1200, 3, 6


@pytest.fixture(scope="module")
def bank() -> tuple[Tensor, Tensor]:
    """Return overlapping classes with shuffled labels, some of them unknown."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
    centres = torch.randn(CLASSES, 12, generator=generator)
    features = centres[labels] + torch.randn(SAMPLES, 12, generator=generator)
    labels[::50] = -1
    return features, labels


def truth(bank: tuple[Tensor, Tensor], same: bool, count: int) -> list[set[int]]:
    """Return each sample's nearest ones by the whole cosine matrix; none without a label."""
    features, labels = bank[0].double().numpy(), bank[1].numpy()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ unit.T
    may = (
        ((labels[:, None] == labels) == same)
        & (labels >= 0)
        & (labels[:, None] >= 0)
        & ~np.eye(len(labels), dtype=bool)
    )
    order = np.argsort(-np.where(may, cosine, -9), axis=1)[:, :count]
    return [set(row.tolist()) if labels[query] >= 0 else set() for query, row in enumerate(order)]


def test_positives_are_exact_and_negatives_approximate(bank: tuple[Tensor, Tensor]) -> None:
    features, labels = bank
    signs: list[None] = []
    seek = FaissIndex(features, labels, POSITIVES, NEGATIVES, lambda: signs.append(None))
    found = seek(torch.arange(SAMPLES))
    assert [set(row) - {-1} for row in found.positives.tolist()] == truth(bank, True, POSITIVES)
    rows, exact = found.negatives.tolist(), truth(bank, False, NEGATIVES)
    recall = sum(len(set(row) & wanted) for row, wanted in zip(rows, exact, strict=True)) / sum(
        map(len, exact)
    )
    assert recall > 0.9 and abs(recall - found.recall) < 0.05, (
        "256 queries estimate the recall of all"
    )
    known = labels >= 0
    others = labels[found.negatives[known].long()]
    assert (
        (found.negatives[known] >= 0).all()
        and (others >= 0).all()
        and (others != labels[known, None]).all()
    )
    assert (found.negatives[~known] == -1).all() and (found.negative_similarity[~known] == 0).all()
    unit = torch.nn.functional.normalize(features, dim=1)
    cosine = (unit[known, None] * unit[found.negatives[known].long()]).sum(dim=2)
    torch.testing.assert_close(found.negative_similarity[known], cosine)
    assert signs, "long work sends heartbeats"


def test_the_bank_of_an_exact_search_is_sorted_once(
    bank: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    banks: list[int] = []

    def counted(features: Tensor, labels: Tensor) -> ByClass:
        banks.append(len(labels))
        return ByClass(features, labels)

    monkeypatch.setattr(faiss_index, "ByClass", counted)
    seek = FaissIndex(*bank, POSITIVES, NEGATIVES)
    for first in (0, 500):
        seek(torch.arange(first, first + 500))
    assert banks == [SAMPLES]


def test_the_recall_is_measured_on_the_sampled_queries(
    bank: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All queries are tried, and the recall is counted from the lists of both searches."""
    monkeypatch.setattr(faiss_index, "RECALL", 0.0)
    monkeypatch.setattr(faiss_index, "SAMPLE", SAMPLES)
    seek = FaissIndex(*bank, 0, NEGATIVES)
    found, exact = seek(torch.arange(SAMPLES)).negatives.tolist(), truth(bank, False, NEGATIVES)
    assert seek.recall < 1
    assert seek.recall == pytest.approx(
        sum(len(set(row) & wanted) for row, wanted in zip(found, exact, strict=True))
        / sum(map(len, exact))
    )


def test_cells_are_added_until_the_recall_suffices(
    bank: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    recalls, looks = [], []
    for wanted in (0.0, 0.95, 1.0):
        monkeypatch.setattr(faiss_index, "RECALL", wanted)
        seek = FaissIndex(*bank, 0, 40)
        recalls.append(seek.recall)
        looks.append(seek.probes)
        assert seek.recall >= wanted
    assert looks[0] == 8 and looks == sorted(looks) and recalls == sorted(recalls)
    assert looks[-1] <= seek.cells == 29, "1,176 labelled samples, 40 per cell"


def test_all_cells_are_probed_if_few_hold_too_few_negatives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two distant classes: the cells near a query hold only its own class."""
    monkeypatch.setattr(faiss_index, "RECALL", 0.0)
    generator = torch.Generator().manual_seed(1)
    labels = (torch.arange(1600) >= 1590).long()
    features = torch.randn(1600, 8, generator=generator) * 0.7 + torch.eye(8)[labels] * 6
    found = FaissIndex(features, labels, 0, 4)(torch.arange(0, 1590, 10))
    assert (found.negatives >= 1590).all()
    scarce = FaissIndex(features, labels, 0, 12)(torch.arange(0, 1590, 100))
    assert ((scarce.negatives >= 1590).sum(dim=1) == 10).all() and (
        (scarce.negatives == -1).sum(dim=1) == 2
    ).all()


def test_half_types_and_any_queries(bank: tuple[Tensor, Tensor]) -> None:
    features, labels = bank
    queries = torch.tensor([1100, 3, 3, 0])
    whole = FaissIndex(features.half(), labels, POSITIVES, NEGATIVES)
    assert torch.equal(whole(queries).negatives, whole(torch.arange(SAMPLES)).negatives[queries])


def test_torch_and_faiss_share_a_process(bank: tuple[Tensor, Tensor]) -> None:
    generator = torch.Generator().manual_seed(2)
    left, right = (
        torch.randn(300, 300, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    expected, threads = torch.from_numpy(left.numpy() @ right.numpy()), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        alone = FaissIndex(*bank, POSITIVES, NEGATIVES)(torch.arange(200))
        for _ in range(3):
            torch.testing.assert_close(left @ right, expected)
            again = FaissIndex(*bank, POSITIVES, NEGATIVES)(torch.arange(200))
            assert torch.equal(again.negatives, alone.negatives)
        import faiss

        assert faiss.omp_get_max_threads() == 2 == torch.get_num_threads()
    finally:
        torch.set_num_threads(threads)


def test_the_error_without_faiss_names_the_installation(
    bank: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faiss_index, "is_installed", lambda: False)
    with refused("resources.retrieval", "approximate", ("exact",), PreflightError) as refusal:
        FaissIndex(*bank, POSITIVES, NEGATIVES)
    assert "install faiss-cpu" in str(refusal.value)
