"""Test the weights of several teachers against closed forms, loops and a search on a grid."""

import math

import pytest
import torch
from torch import Tensor

from methods import Mix
from orchestrator.config.ensemble_schema import Ensemble
from orchestrator.teacher.ensemble import TeacherWeights, confidence_weights
from orchestrator.training.capabilities.teacher_weights import pool_gradient

CPU = torch.device("cpu")
TEACHERS, SAMPLES, CLASSES = 3, 5, 4


@pytest.fixture
def logits() -> Tensor:
    """Return the logits (M, B, K) of teachers."""
    return (
        torch.randn(TEACHERS, SAMPLES, CLASSES, generator=torch.Generator().manual_seed(3))
        * torch.tensor([0.5, 2.0, 6.0])[:, None, None]
    )


def compute(
    logits: Tensor, labels: Tensor | None = None, mix: Mix | None = None, **settings: object
) -> Tensor:
    """Return the weights (M, B) of teachers with these settings."""
    weights = TeacherWeights(Ensemble.model_validate(settings), len(logits), CPU)
    return weights.compute(logits, labels, mix).expand(logits.shape[:2])


LABELS = torch.tensor([0, 3, 1, 2, 2])


def test_given_weights_are_normalised(logits: Tensor) -> None:
    assert torch.equal(compute(logits), torch.full((TEACHERS, SAMPLES), 1 / TEACHERS))
    given = compute(logits, fixed=[3, 0, 1])[:, 0]
    assert torch.allclose(given, torch.tensor([0.75, 0.0, 0.25])) and given[1] == 0


def test_two_teachers_are_weighted_by_their_probability_of_the_label(logits: Tensor) -> None:
    two = logits[:2]
    p = two.softmax(dim=2)[:, torch.arange(SAMPLES), LABELS]
    expected = p / p.sum(dim=0)  # (1 - softmax(-log p)) / 1
    assert torch.allclose(compute(two, LABELS, weights="confidence"), expected, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_confidence_is_that_of_the_paper_for_every_sample(
    logits: Tensor, temperature: float
) -> None:
    weights = compute(logits, LABELS, weights="confidence", temperature=temperature)
    for sample in range(SAMPLES):
        exponentials = []
        for teacher in range(TEACHERS):
            scaled = [value / temperature for value in logits[teacher, sample].tolist()]
            total = sum(math.exp(value) for value in scaled)
            exponentials.append(total / math.exp(scaled[int(LABELS[sample])]))  # exp(CE)
        for teacher in range(TEACHERS):
            share = exponentials[teacher] / sum(exponentials)
            expected = (1 - share) / (TEACHERS - 1)
            assert math.isclose(weights[teacher, sample], expected, rel_tol=1e-4, abs_tol=1e-6)
    assert torch.allclose(weights.sum(dim=0), torch.ones(SAMPLES))
    assert (weights >= 0).all() and (weights <= 1 / (TEACHERS - 1) + 1e-6).all()


def test_entropy_needs_no_labels(logits: Tensor) -> None:
    p = logits.softmax(dim=2)
    entropies = torch.special.entr(p).sum(dim=2)
    expected = confidence_weights(entropies)
    assert torch.allclose(compute(logits, weights="entropy"), expected, atol=1e-6)
    assert torch.allclose(compute(logits, LABELS, weights="entropy"), expected, atol=1e-6)


def test_a_certain_teacher_has_more_weight_than_one_that_guesses() -> None:
    pair = torch.tensor([[[9.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])
    weights = compute(pair, weights="entropy")[:, 0]
    # entropies near 0 and log 3: softmax gives about 1/4 and 3/4
    assert torch.allclose(weights, torch.tensor([0.75, 0.25]), atol=2e-3)


def test_samples_without_labels_are_weighted_by_entropy(logits: Tensor) -> None:
    labels = LABELS.clone()
    labels[1] = -1
    weights = compute(logits, labels, weights="confidence")
    known = compute(logits, LABELS, weights="confidence")
    unknown = compute(logits, weights="entropy")
    assert torch.equal(weights[:, 1], unknown[:, 1])
    assert torch.equal(weights[:, [0, 2, 3, 4]], known[:, [0, 2, 3, 4]])
    assert torch.equal(compute(logits, weights="confidence"), unknown)  # no label may be used


def test_blended_samples_count_by_their_shares(logits: Tensor) -> None:
    partners, share = torch.tensor([1, 1, -1, 0, 3]), torch.tensor([0.5, 0.9, 0.3, 0.0, 1.0])
    weights = compute(logits, LABELS, Mix(partners, share), weights="confidence")
    log_p = logits.log_softmax(dim=2)
    entropy = -(log_p.exp() * log_p).sum(dim=2)
    scores = torch.zeros(TEACHERS, SAMPLES)
    for sample in range(SAMPLES):
        for label, part in ((LABELS, share[sample]), (partners, 1 - share[sample])):
            y = int(label[sample])
            scores[:, sample] += part * (entropy[:, sample] if y < 0 else -log_p[:, sample, y])
    assert torch.allclose(weights, confidence_weights(scores), atol=1e-6)


def test_the_gradient_of_learned_weights_is_that_of_the_cross_entropy(logits: Tensor) -> None:
    labels = LABELS.clone()
    labels[2] = -1
    weights = torch.tensor([0.2, 0.5, 0.3], requires_grad=True)
    pooled = (weights[:, None, None] * logits).sum(dim=0)
    loss = torch.nn.functional.cross_entropy(pooled, labels, ignore_index=-1, reduction="sum")
    (expected,) = torch.autograd.grad(loss, weights)
    assert torch.allclose(pool_gradient(weights.detach(), logits, labels), expected, atol=1e-5)
