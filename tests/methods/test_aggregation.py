"""Test targets of similar samples against Python loops, temperature limits and autograd."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from methods import aggregation, retrieval
from methods.aggregation import (
    Quantity,
    aggregate_class_logits,
    aggregate_logits,
    positive_accuracy,
    target_entropy,
)
from methods.retrieval import Neighbours, nearest

SAMPLES, FEATURES, CLASSES = 60, 6, 4
TAU, TEMPERATURE = 0.2, 3.0
HOWS = pytest.mark.parametrize("how", ["logit", "prob"])


@pytest.fixture(scope="module")
def features() -> Tensor:
    return torch.randn(SAMPLES, FEATURES, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def logits() -> Tensor:
    return 4 * torch.randn(SAMPLES, CLASSES, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def labels() -> Tensor:
    """Return labels of three classes, one with a single member; two samples have no label."""
    labels = torch.arange(SAMPLES) % 2
    labels[10], labels[20], labels[33] = 3, -1, -1
    return labels


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (retrieval, aggregation):
        monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 3 * 7)
    monkeypatch.setattr(retrieval, "LEAST_ROWS", 3)
    monkeypatch.setattr(retrieval, "BANK_BYTES", 1000)


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    total = sum(math.exp(value - top) for value in row)
    return [math.exp(value - top) / total for value in row]


def by_hand(
    logits: Tensor,
    query: int,
    places: list[int],
    similarity: list[float],
    tau: float,
    how: Quantity,
) -> list[float]:
    """Return the target probabilities of one query at the temperature, by definition."""
    all_logits = logits.double().tolist()
    if not places:
        return softmax([value / TEMPERATURE for value in all_logits[query]])
    weights = softmax([value / tau for value in similarity])
    if how == "prob":
        distributions = [
            softmax([value / TEMPERATURE for value in all_logits[place]]) for place in places
        ]
        return [
            sum(a * distribution[k] for a, distribution in zip(weights, distributions, strict=True))
            for k in range(CLASSES)
        ]
    mean = [
        sum(a * all_logits[place][k] for a, place in zip(weights, places, strict=True))
        for k in range(CLASSES)
    ]
    return softmax([value / TEMPERATURE for value in mean])


def expect(targets: Tensor, wanted: list[list[float]]) -> None:
    assert targets.dtype == torch.float32
    torch.testing.assert_close(
        (targets.double() / TEMPERATURE).softmax(1),
        torch.tensor(wanted).double(),
        atol=2e-6,
        rtol=1e-5,
    )


@HOWS
@pytest.mark.parametrize("width", [1, 5, 35])
def test_targets_are_those_of_the_definition(
    features: Tensor, logits: Tensor, labels: Tensor, how: Quantity, width: int
) -> None:
    neighbours = nearest(features, labels, width, 0)
    places = [[place for place in row if place != -1] for row in neighbours.positives.tolist()]
    similarity = neighbours.positive_similarity.tolist()
    wanted = [
        by_hand(logits, i, places[i], similarity[i][: len(places[i])], TAU, how)
        for i in range(SAMPLES)
    ]
    targets = aggregate_logits(logits, neighbours, TAU, how, TEMPERATURE)
    expect(targets, wanted)
    assert torch.equal(targets[[10, 20, 33]], logits[[10, 20, 33]])  # no neighbours
    rows = torch.tensor([33, 4, 4, 59])
    torch.testing.assert_close(
        aggregate_logits(logits, neighbours, TAU, how, TEMPERATURE, rows), targets[rows]
    )


@HOWS
@pytest.mark.parametrize("some", [False, True])
def test_whole_class_equals_all_members(
    features: Tensor, logits: Tensor, labels: Tensor, how: Quantity, some: bool
) -> None:
    members = torch.arange(SAMPLES) % 3 != 0 if some else None
    exact = nearest(features, labels, SAMPLES, 0, members)
    for tau in (0.01, TAU, math.inf):
        whole = aggregate_class_logits(features, logits, labels, tau, how, TEMPERATURE, members)
        torch.testing.assert_close(
            whole, aggregate_logits(logits, exact, tau, how, TEMPERATURE), atol=2e-4, rtol=1e-4
        )
    assert torch.equal(whole[[10, 20, 33]], logits[[10, 20, 33]])


@HOWS
@pytest.mark.usefixtures("small_blocks")
def test_block_size_does_not_change_targets(
    features: Tensor, logits: Tensor, labels: Tensor, how: Quantity
) -> None:
    blocks = list(retrieval.ByClass(features, labels).blocks(torch.arange(SAMPLES)))
    assert len(blocks) == 10 + 10 + 1  # 28 and 29 of the large classes, in blocks of three
    whole = aggregate_class_logits(features, logits, labels, TAU, how, TEMPERATURE)
    neighbours = nearest(features, labels, SAMPLES, 0)
    listed = aggregate_logits(logits, neighbours, TAU, how, TEMPERATURE)
    similarity = neighbours.positive_similarity.tolist()
    places = [[place for place in row if place != -1] for row in neighbours.positives.tolist()]
    wanted = [
        by_hand(logits, i, places[i], similarity[i][: len(places[i])], TAU, how)
        for i in range(SAMPLES)
    ]
    expect(whole, wanted)
    expect(listed, wanted)


@HOWS
def test_low_retrieval_temperature_selects_the_nearest(
    features: Tensor, logits: Tensor, labels: Tensor, how: Quantity
) -> None:
    neighbours = nearest(features, labels, 6, 0)
    has_positives = neighbours.positives[:, 0] != -1
    of_nearest = (logits[neighbours.positives[has_positives, 0].long()] / TEMPERATURE).softmax(1)
    for targets in (
        aggregate_logits(logits, neighbours, 1e-6, how, TEMPERATURE),
        aggregate_class_logits(features, logits, labels, 1e-6, how, TEMPERATURE),
    ):
        torch.testing.assert_close((targets[has_positives] / TEMPERATURE).softmax(1), of_nearest)


def test_high_retrieval_temperature_averages_all(
    features: Tensor, logits: Tensor, labels: Tensor
) -> None:
    targets = aggregate_class_logits(features, logits, labels, math.inf, "logit", TEMPERATURE)
    for query in (0, 1, 8, 59):
        class_members = (labels == labels[query]) & (torch.arange(SAMPLES) != query)
        torch.testing.assert_close(targets[query], logits[class_members].mean(0))
    nearly = aggregate_class_logits(features, logits, labels, 1e6, "logit", TEMPERATURE)
    torch.testing.assert_close(nearly, targets, atol=1e-4, rtol=1e-4)


@HOWS
def test_retrieved_self_gives_the_teachers_distribution(logits: Tensor, how: Quantity) -> None:
    itself = torch.arange(SAMPLES, dtype=torch.int32)[:, None]
    none = itself[:, :0]
    neighbours = Neighbours(itself, none, torch.ones(SAMPLES, 1), none.float())
    targets = aggregate_logits(logits, neighbours, TAU, how, TEMPERATURE)
    torch.testing.assert_close(
        (targets / TEMPERATURE).softmax(1), (logits / TEMPERATURE).softmax(1)
    )


@HOWS
def test_samples_without_positives_keep_their_logits(
    features: Tensor, logits: Tensor, labels: Tensor, how: Quantity
) -> None:
    assert torch.equal(
        aggregate_logits(logits, nearest(features, labels, 0, 2), TAU, how, TEMPERATURE), logits
    )


@HOWS
def test_identical_logits_aggregate_to_themselves(
    features: Tensor, labels: Tensor, how: Quantity
) -> None:
    alike = 5 * torch.eye(CLASSES)[labels.clamp(min=0)]
    targets = aggregate_logits(alike, nearest(features, labels, 4, 0), TAU, how, TEMPERATURE)
    torch.testing.assert_close((targets / TEMPERATURE).softmax(1), (alike / TEMPERATURE).softmax(1))


def test_the_mean_of_probabilities_has_the_gradient_of_the_mean_divergence(
    features: Tensor, logits: Tensor, labels: Tensor
) -> None:
    neighbours = nearest(features, labels, 5, 0)
    student = torch.randn(
        SAMPLES, CLASSES, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    has_positives = (neighbours.positives[:, 0] != -1).nonzero().squeeze(1)

    def gradient(divergence: Callable[[Tensor], Tensor]) -> Tensor:
        z = student.clone().requires_grad_()
        (slope,) = torch.autograd.grad(
            divergence((z[has_positives] / TEMPERATURE).log_softmax(1)), z
        )
        return slope

    def to(p: Tensor, log_q: Tensor) -> Tensor:
        return (p * (p.log() - log_q)).sum(-1)

    weights = (neighbours.positive_similarity[has_positives].double() / TAU).softmax(1)
    distributions = (
        logits[neighbours.positives[has_positives].long()].double() / TEMPERATURE
    ).softmax(-1)
    target = (
        aggregate_logits(logits, neighbours, TAU, "prob", TEMPERATURE)[has_positives].double()
        / TEMPERATURE
    ).softmax(1)
    one = gradient(lambda log_q: to(target, log_q).sum())
    other = gradient(lambda log_q: (weights * to(distributions, log_q[:, None])).sum())
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_targets_have_no_gradient_and_stay_finite(features: Tensor, labels: Tensor) -> None:
    certain = torch.full((SAMPLES, CLASSES), -1000.0)
    certain[:, 0] = 0
    certain.requires_grad_()
    for targets in (
        aggregate_logits(certain, nearest(features, labels, 3, 0), TAU, "prob", TEMPERATURE),
        aggregate_class_logits(features, certain, labels, TAU, "prob", TEMPERATURE),
    ):
        assert not targets.requires_grad and targets.isfinite().all()
        torch.testing.assert_close((targets / TEMPERATURE).softmax(1)[:, 0], torch.ones(SAMPLES))


def test_entropy_of_the_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = torch.tensor(
        [[0.0, 0.0, 0.0], [math.log(6.0), math.log(3.0), math.log(1.0)], [200.0, 0.0, 0.0]]
    )
    second = -sum(p * math.log(p) for p in (0.6, 0.3, 0.1))
    assert target_entropy(targets) == pytest.approx((math.log(3) + second) / 3, rel=1e-5)
    assert target_entropy(2 * targets, 2.0) == pytest.approx((math.log(3) + second) / 3, rel=1e-5)
    monkeypatch.setattr(aggregation, "BLOCK_BYTES", 24)  # two rows at once
    assert target_entropy(targets) == pytest.approx((math.log(3) + second) / 3, rel=1e-5)


def test_the_share_of_positives_that_the_teacher_gets_right() -> None:
    logits, labels = (
        torch.eye(3)[[0, 1, 1, 2]],
        torch.tensor([0, 0, 1, 1]),
    )  # right, wrong, right, wrong
    none = torch.empty(4, 0)
    places = torch.tensor([[1, -1], [0, -1], [3, -1], [2, 2]], dtype=torch.int32)
    assert positive_accuracy(
        logits, labels, Neighbours(places, none, places.float(), none)
    ) == pytest.approx(3 / 5)
    no_positions = torch.full((4, 2), -1)
    assert math.isnan(positive_accuracy(logits, labels, Neighbours(no_positions, none, none, none)))
