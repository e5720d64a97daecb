"""Test retrieval against a double loop in Python: samples, order, independence of block sizes."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from methods import retrieval
from methods.retrieval import Neighbours, nearest, recall

SAMPLES, FEATURES, CLASSES = 90, 7, 5


class Bank(NamedTuple):
    """Features of clusters, and labels with missing ones and a class of one member."""

    features: Tensor
    labels: Tensor


@pytest.fixture(scope="module")
def bank() -> Bank:
    torch.manual_seed(0)
    labels = torch.randint(CLASSES, (SAMPLES,))
    features = torch.randn(SAMPLES, FEATURES) + torch.randn(CLASSES, FEATURES)[labels]
    labels[torch.randperm(SAMPLES)[:9]] = -1
    labels[41], features[13] = CLASSES, 0
    return Bank(features, labels)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that sets few queries and columns per block, and a small bank part."""

    def make(columns: int) -> None:
        monkeypatch.setattr(retrieval, "LEAST_ROWS", 3)
        monkeypatch.setattr(retrieval, "BLOCK_BYTES", 4 * 3 * columns)
        monkeypatch.setattr(retrieval, "BANK_BYTES", 1000)

    return make


def cosine(one: Tensor, other: Tensor) -> float:
    lengths = float(one.double().norm() * other.double().norm())
    return float(one.double() @ other.double()) / lengths if lengths else 0.0


def brute_force(
    bank: Bank, query: int, same: bool, members: Tensor | None = None
) -> list[tuple[float, int]]:
    """Return (similarity, position) of all allowed samples, nearest first."""
    labels = bank.labels.tolist()
    found = []
    for other in range(len(labels)):
        if (
            -1 in (labels[query], labels[other])
            or other == query
            or (members is not None and not members[other])
        ):
            continue
        if (labels[other] == labels[query]) == same:
            found.append((cosine(bank.features[query], bank.features[other]), other))
    return sorted(found, key=lambda pair: (-pair[0], pair[1]))


def expect(
    bank: Bank, found: Neighbours, queries: list[int], members: Tensor | None = None
) -> None:
    """Assert that the neighbours are those of the double loop, with its similarities."""
    assert len(found.positives) == len(found.negatives) == len(queries)
    for same, places, similarity in (
        (True, found.positives, found.positive_similarity),
        (False, found.negatives, found.negative_similarity),
    ):
        width = places.shape[1]
        assert (
            places.dtype == torch.int32
            and similarity.dtype == torch.float32
            and similarity.shape == places.shape
        )
        for row, query in enumerate(queries):
            wanted = brute_force(bank, query, same, members)[:width]
            missing = width - len(wanted)
            assert places[row].tolist() == [place for _, place in wanted] + [-1] * missing
            assert similarity[row].tolist() == pytest.approx(
                [value for value, _ in wanted] + [0.0] * missing, abs=1e-6
            )


@pytest.mark.parametrize(("positives", "negatives"), [(1, 1), (3, 10), (40, 100), (4, 0), (0, 6)])
def test_neighbours_equal_those_of_a_double_loop(
    bank: Bank, positives: int, negatives: int
) -> None:
    found = nearest(*bank, positives, negatives)
    assert (
        found.positives.shape == (SAMPLES, positives)
        and found.negatives.shape == (SAMPLES, negatives)
        and found.recall == 1
    )
    expect(bank, found, list(range(SAMPLES)))


@pytest.mark.parametrize("columns", [1, 4, 17, 64])
def test_blocks_of_any_size_find_the_same(
    bank: Bank, small_blocks: Callable[[int], None], columns: int
) -> None:
    small_blocks(columns)
    expect(bank, nearest(*bank, 6, 9), list(range(SAMPLES)))


def test_members_alone_are_retrieved_and_queries_alone_are_answered(bank: Bank) -> None:
    members = torch.rand(SAMPLES, generator=torch.Generator().manual_seed(1)) < 0.4
    queries = [70, 3, 41, 13, 3, *range(20, 30)]
    found = nearest(*bank, 5, 8, members, torch.tensor(queries))
    expect(bank, found, queries, members)
    no_members = nearest(*bank, 2, 2, torch.zeros(SAMPLES, dtype=torch.bool))
    assert (
        no_members.positives.eq(-1).all()
        and no_members.negatives.eq(-1).all()
        and not no_members.negative_similarity.any()
    )


def test_no_query_finds_itself_though_it_is_nearest_to_itself() -> None:
    features, labels = torch.ones(12, 3), torch.arange(12) % 2
    found = nearest(features, labels, 5, 6)
    for query in range(12):
        alike = [place for place in range(query % 2, 12, 2) if place != query]
        assert found.positives[query].tolist() == alike
        assert found.negatives[query].tolist() == list(range(1 - query % 2, 12, 2))


def test_unlabelled_or_single_sample_has_no_positives(bank: Bank) -> None:
    found = nearest(*bank, 3, 3)
    unlabelled = bank.labels == -1
    assert found.positives[unlabelled].eq(-1).all() and found.negatives[unlabelled].eq(-1).all()
    assert not torch.isin(found.negatives, unlabelled.nonzero()).any()
    assert (
        found.positives[41].eq(-1).all()
        and not found.positive_similarity[41].any()
        and found.negatives[41].ne(-1).all()
    )


def test_a_single_class_has_no_negatives() -> None:
    found = nearest(torch.eye(4), torch.zeros(4, dtype=torch.long), 3, 2)
    assert found.negatives.eq(-1).all() and found.positives.ne(-1).all()


@pytest.mark.parametrize("columns", [3, 16, 70, None])
def test_of_equally_similar_samples_the_lower_positions_come_first(
    small_blocks: Callable[[int], None], columns: int | None
) -> None:
    if columns:
        small_blocks(columns)
    generator = torch.Generator().manual_seed(2)
    signs = (
        torch.randint(2, (240, 4), generator=generator).mul(2).sub(1).float()
    )  # cosines of 0, +-1/2 and +-1 without rounding
    ties = Bank(signs, torch.randint(3, (240,), generator=generator))
    queries = torch.arange(0, 240, 7)
    expect(ties, nearest(*ties, 9, 3, queries=queries), queries.tolist())
    expect(ties, nearest(*ties, 2, 40, queries=queries), queries.tolist())


def test_grouped_search_equals_a_sort() -> None:
    torch.manual_seed(3)
    features, labels = torch.randn(4003, 5), (torch.arange(4003) >= 2000).long()
    # the columns of the second class that form an incomplete group
    features[-3:] = features[0] + 0.05 * torch.randn(3, 5)
    queries = torch.arange(0, 4003, 97)
    found = nearest(features, labels, 8, 20, queries=queries)
    unit = features.double() / features.double().norm(dim=1, keepdim=True)
    for same, places in ((True, found.positives), (False, found.negatives)):
        allowed = (labels[queries][:, None] == labels) == same
        allowed[torch.arange(len(queries)), queries] = False
        cosines = (unit[queries] @ unit.T).masked_fill(~allowed, -2)
        assert torch.equal(
            places, cosines.argsort(1, descending=True)[:, : places.shape[1]].to(torch.int32)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_any_type_are_compared_in_float32(bank: Bank, dtype: torch.dtype) -> None:
    rounded = Bank(bank.features.to(dtype), bank.labels)
    expect(rounded, nearest(*rounded, 4, 12), list(range(SAMPLES)))
    with torch.autocast("cpu", torch.bfloat16):
        expect(rounded, nearest(*rounded, 4, 12), list(range(SAMPLES)))


def test_lengths_do_not_matter_and_zero_has_no_similarity(bank: Bank) -> None:
    scaled = bank.features * torch.logspace(-3, 3, SAMPLES)[:, None]
    one, other = nearest(*bank, 4, 8), nearest(scaled, bank.labels, 4, 8)
    known = torch.arange(SAMPLES) != 13
    assert torch.equal(one.positives[known], other.positives[known]) and torch.equal(
        one.negatives, other.negatives
    )
    assert bank.labels[13] != -1 and one.positives[13].ne(-1).all()
    assert not one.positive_similarity[13].any() and not one.negative_similarity[13].any()


def test_permuting_the_bank_changes_nothing(bank: Bank) -> None:
    kept = torch.arange(SAMPLES) != 13  # all are equally near to zero, so the order decides
    features, labels = bank.features[kept], bank.labels[kept]
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(4))
    one, other = nearest(features, labels, 30, 12), nearest(features[order], labels[order], 30, 12)
    back = torch.cat([order, torch.tensor([-1])])  # -1 stays -1
    assert torch.equal(back[other.positives.long()], one.positives[order].long())
    assert torch.equal(back[other.negatives.long()], one.negatives[order].long())
    torch.testing.assert_close(other.negative_similarity, one.negative_similarity[order])


def test_heartbeat_is_called_once_per_block(
    bank: Bank, small_blocks: Callable[[int], None]
) -> None:
    small_blocks(10)
    calls: list[None] = []
    nearest(*bank, 2, 2, heartbeat=lambda: calls.append(None))
    assert len(calls) == sum(
        -(-count // 3) for count in bank.labels[bank.labels != -1].bincount().tolist()
    )


def test_recall_is_the_share_of_the_exact_ones_that_were_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = torch.tensor([[4, 2, 7], [1, 0, -1], [-1, -1, -1], [5, 3, 6]])
    found = torch.tensor([[7, 9], [0, -1], [1, 2], [3, 6]])
    assert recall(found, exact) == pytest.approx(4 / 8)
    monkeypatch.setattr(retrieval, "BLOCK_BYTES", 12)  # two rows at once
    assert recall(found, exact) == pytest.approx(4 / 8)
    assert recall(exact, exact) == 1 and recall(found, torch.full((4, 2), -1)) == 1
