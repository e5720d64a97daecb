"""Test metrics against a slow computation in numpy, sample by sample."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.core.errors import ConfigurationError
from orchestrator.training.metrics import BINS, USER_METRICS, Scores, UserMetric, check_user_metrics
from tests.refusal import refused

CPU = torch.device("cpu")


def drawn(
    count: int = 211, classes: int = 7, scale: float = 3.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, classes, generator=generator)
    labels, teacher = (torch.randint(classes, (count,), generator=generator) for _ in range(2))
    return logits, labels, teacher


def slow(logits: Tensor, labels: Tensor, teacher: Tensor) -> dict[str, float]:
    correct, nll, entropy, agreeing = [], [], [], []
    bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    of_classes: dict[int, list[float]] = {}
    for row, label, other in zip(
        logits.double().tolist(), labels.tolist(), teacher.tolist(), strict=True
    ):
        exponentials: NDArray[Any] = np.exp(np.array(row) - max(row))
        probabilities = (exponentials / exponentials.sum()).tolist()
        guess = probabilities.index(max(probabilities))
        correct.append(float(guess == label))
        of_classes.setdefault(label, []).append(correct[-1])
        agreeing.append(float(guess == other))
        nll.append(-math.log(probabilities[label]))
        entropy.append(-sum(p * math.log(p) for p in probabilities if p > 0))
        bins[min(int(probabilities[guess] * BINS), BINS - 1)].append(
            (probabilities[guess], correct[-1])
        )
    gaps = [abs(sum(c for c, _ in members) - sum(hit for _, hit in members)) for members in bins]
    mean = {"accuracy": correct, "nll": nll, "entropy": entropy, "agreement": agreeing}
    each = [sum(hits) / len(hits) for hits in of_classes.values()]
    classes = {"worst_class_accuracy": min(each), "class_gap": max(each) - min(each)}
    return (
        {name: sum(values) / len(values) for name, values in mean.items()}
        | classes
        | {"ece": sum(gaps) / len(labels)}
    )


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_metrics_equal_a_slow_computation(scale: float) -> None:
    logits, labels, teacher = drawn(scale=scale)
    scores = Scores(7, CPU)
    scores.add(logits, labels, teacher)
    assert scores.metrics(agreement=True) == pytest.approx(
        slow(logits, labels, teacher), rel=1e-5, abs=1e-6
    )


@pytest.mark.parametrize("cuts", [[1, 2, 3], [100], [10, 20, 200, 210]])
def test_sums_over_any_split_equal_those_of_the_whole(cuts: list[int]) -> None:
    logits, labels, teacher = drawn()
    whole, ranks = Scores(7, CPU), []
    whole.add(logits, labels, teacher)
    for part in zip(
        *(values.tensor_split(cuts) for values in (logits, labels, teacher)), strict=True
    ):
        ranks.append(Scores(7, CPU))
        ranks[-1].add(*part)
    torch.testing.assert_close(
        torch.stack([rank.sums for rank in ranks]).sum(dim=0), whole.sums, rtol=1e-12, atol=1e-12
    )


def test_calibration_error_of_a_known_case() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.3, 0.7]])
    scores = Scores(2, CPU)
    scores.add(probabilities.log(), torch.tensor([0, 0, 1, 1]))
    # three of confidence 0.9 of which two are right, one of confidence 0.7 that is right
    assert scores.metrics(agreement=False)["ece"] == pytest.approx(
        (abs(2.7 - 2) + abs(0.7 - 1)) / 4, abs=1e-6
    )


def test_gaps_of_opposite_sign_do_not_cancel_between_bins_and_do_within_one() -> None:
    between, within = Scores(2, CPU), Scores(2, CPU)
    between.add(torch.tensor([[0.9, 0.1], [0.6, 0.4]]).log(), torch.tensor([1, 0]))
    within.add(torch.tensor([[0.9, 0.1], [0.9, 0.1]]).log(), torch.tensor([1, 0]))
    assert between.metrics(agreement=False)["ece"] == pytest.approx((0.9 + 0.4) / 2, abs=1e-6)
    assert within.metrics(agreement=False)["ece"] == pytest.approx((1.8 - 1) / 2, abs=1e-6)


def test_confident_correct_student_has_perfect_metrics() -> None:
    scores = Scores(2, CPU)
    scores.add(torch.tensor([[200.0, 0.0], [0.0, 200.0]]), torch.tensor([0, 1]))
    assert scores.metrics(agreement=False) == pytest.approx(
        {"accuracy": 1, "worst_class_accuracy": 1, "class_gap": 0, "nll": 0, "ece": 0, "entropy": 0}
    )


def test_uniform_student_has_the_entropy_of_all_classes() -> None:
    scores = Scores(8, CPU)
    scores.add(torch.zeros(5, 8), torch.arange(5))
    metrics = scores.metrics(agreement=False)
    assert metrics["entropy"] == pytest.approx(math.log(8), rel=1e-6)
    assert metrics["nll"] == pytest.approx(math.log(8), rel=1e-6)


def test_agreement_is_returned_only_on_request() -> None:
    logits, labels, _ = drawn()
    scores = Scores(7, CPU)
    scores.add(logits, labels)
    names = {"accuracy", "worst_class_accuracy", "class_gap", "nll", "ece", "entropy"}
    assert set(scores.metrics(agreement=False)) == names and set(
        scores.metrics(agreement=True)
    ) == names | {"agreement"}


def test_nll_of_logits_that_are_not_finite_is_nan() -> None:
    scores = Scores(2, CPU)
    scores.add(torch.tensor([[float("nan"), 0.0], [1.0, 0.0]]), torch.tensor([0, 0]))
    assert math.isnan(scores.metrics(agreement=False)["nll"])


def test_class_without_samples_is_ignored() -> None:
    """Right: class 0 two of four, class 1 none, class 2 one of one; class 3 has no sample."""
    scores = Scores(4, CPU)
    scores.add(torch.eye(4)[[0, 0, 1, 3]], torch.tensor([0, 0, 0, 0]))
    assert (
        scores.class_accuracies()[:1].tolist() == [0.5]
        and scores.class_accuracies()[1:].isnan().all()
    )
    assert (scores.metrics(False)["worst_class_accuracy"], scores.metrics(False)["class_gap"]) == (
        0.5,
        0,
    )
    scores.add(torch.eye(4)[[3, 2]], torch.tensor([1, 2]))
    assert (
        scores.class_accuracies()[:3].tolist() == [0.5, 0, 1]
        and scores.class_accuracies()[3].isnan()
    )
    assert (scores.metrics(False)["worst_class_accuracy"], scores.metrics(False)["class_gap"]) == (
        0,
        1,
    )


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda logits, labels: 1 // 0, "ZeroDivisionError"),
        (lambda logits, labels: math.nan, "is nan"),
        (lambda logits, labels: logits, "fails"),
    ],
)
def test_metrics_of_user_code_are_checked_on_random_logits(
    function: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(USER_METRICS, "my/bad", UserMetric("my/bad", function, "mine.py:1"))
    with refused("my/bad", error=ConfigurationError) as caught:
        check_user_metrics(3, 20)
    assert reason in str(caught.value)


def test_a_metric_is_checked_on_samples_of_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def count(logits: Tensor, labels: Tensor) -> int:
        seen.append((tuple(logits.shape), len(set(labels.tolist()))))
        return 0

    monkeypatch.setitem(USER_METRICS, "my/count", UserMetric("my/count", count, "mine.py:1"))
    before = torch.get_rng_state()
    for samples in (4, 20, 10**6):
        check_user_metrics(5, samples)
    assert seen == [((5, 5), 5), ((20, 5), 5), ((4096, 5), 5)]
    assert torch.equal(torch.get_rng_state(), before)
