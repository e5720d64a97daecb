"""Test the divergences against independent computations in float64, and at their limits."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods import losses


def power_sums(logits: Tensor, temperature: float) -> Tensor:
    return losses.log_power_sum(logits, temperature).exp()


def logits(seed: int, size: int = 5, classes: int = 7, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(size, classes, generator=generator, dtype=torch.float64)


def test_kl_is_that_of_torch_distributions() -> None:
    v, z = logits(0), logits(1)
    p, q = torch.distributions.Categorical(logits=v), torch.distributions.Categorical(logits=z)
    expected = torch.distributions.kl_divergence(p, q)
    torch.testing.assert_close(losses.kl_divergence(v.log_softmax(1), z.log_softmax(1)), expected)
    torch.testing.assert_close(losses.tempered_kl(v, z, 1.0), expected)
    torch.testing.assert_close(losses.tempered_kl(4 * v, 4 * z, 4.0), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_is_the_mean_over_the_labelled(smoothing: float) -> None:
    z, labels = logits(4, size=4), torch.tensor([2, -1, 0, -1])
    target = (1 - smoothing) * functional.one_hot(labels[[0, 2]], 7) + smoothing / 7
    expected = -(target * z[[0, 2]].log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(losses.cross_entropy(z, labels, smoothing), expected)


def test_cross_entropy_without_labels_is_a_zero_that_can_be_followed() -> None:
    z = logits(5).requires_grad_()
    loss = losses.cross_entropy(z, torch.full((5,), -1))
    (slope,) = torch.autograd.grad(loss, z)
    assert loss.item() == 0
    assert torch.equal(slope, torch.zeros_like(z))


MIXED_LABELS = torch.tensor([2, -1, 0, -1, 6]), torch.tensor([1, 3, -1, -1, 6])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_mixed_cross_entropy_is_the_mean_over_the_labelled_shares(smoothing: float) -> None:
    z, share = logits(4), torch.tensor([0.3, 0.6, 0.9, 0.5, 0.25])
    total, counted = 0.0, 0.0
    for index, pair in enumerate(zip(*(labels.tolist() for labels in MIXED_LABELS), strict=True)):
        for label, weight in zip(pair, (share[index].item(), 1 - share[index].item()), strict=True):
            if label >= 0:
                log_q = [value - z[index].logsumexp(0).item() for value in z[index].tolist()]
                total -= weight * ((1 - smoothing) * log_q[label] + smoothing / 7 * sum(log_q))
                counted += weight
    found = losses.cross_entropy(z, MIXED_LABELS[0], smoothing, MIXED_LABELS[1], share)
    assert found.item() == pytest.approx(total / counted, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_of_mixed_cross_entropy_agree_with_finite_differences(smoothing: float) -> None:
    z, share = (
        logits(6).requires_grad_(),
        torch.tensor([0.0, 0.6, 1.0, 0.5, 0.25], dtype=torch.float64),
    )
    assert torch.autograd.gradcheck(
        lambda z: losses.cross_entropy(z, MIXED_LABELS[0], smoothing, MIXED_LABELS[1], share), (z,)
    )


@pytest.mark.parametrize(
    ("labels", "partners", "share"),
    [
        ([-1] * 5, [-1] * 5, [0.5] * 5),
        ([-1] * 5, [1] * 5, [1.0] * 5),
        ([1] * 5, [-1] * 5, [0.0] * 5),
    ],
    ids=["no label", "no share of the labelled partners", "no share of the labelled samples"],
)
def test_mixed_cross_entropy_without_labels_is_a_zero_that_can_be_followed(
    labels: list[int], partners: list[int], share: list[float]
) -> None:
    z = logits(5).requires_grad_()
    loss = losses.cross_entropy(
        z, torch.tensor(labels), 0.0, torch.tensor(partners), torch.tensor(share)
    )
    (slope,) = torch.autograd.grad(loss, z)
    assert loss.item() == 0
    assert torch.equal(slope, torch.zeros_like(z))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 10.0])
def test_gradients_agree_with_finite_differences(temperature: float) -> None:
    v, z = logits(6), logits(7).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: losses.tempered_kl(v, z, temperature), (z,))
    assert torch.autograd.gradcheck(
        lambda z: losses.transformed_teacher_kl(v, z, temperature), (z,)
    )
    assert torch.autograd.gradcheck(lambda z: power_sums(z, temperature), (z,))


@pytest.mark.parametrize("size", [1e4, 1e6])
def test_extremes_are_finite_in_value_and_gradient(size: float) -> None:
    v = torch.tensor([[size, -size, 0.0], [-size, size, size], [size, size, size]])
    for order in ([0, 1, 2], [1, 2, 0]):
        z = v[:, order].clone().requires_grad_()
        for loss in (
            losses.tempered_kl(v, z, 4.0),
            losses.transformed_teacher_kl(v, z, 4.0),
            power_sums(z, 4.0),
            losses.cross_entropy(z, torch.tensor([1, 0, 2])),
        ):
            (slope,) = torch.autograd.grad(loss.sum(), z)
            assert loss.isfinite().all()
            assert slope.isfinite().all()


@pytest.mark.parametrize("temperature", [20.0, 1000.0])
def test_kd_in_float32_is_that_of_float64_at_a_high_temperature(temperature: float) -> None:
    """T^2 D; logarithms of both distributions in float32 lose all of it at T = 1000."""
    v, z = (3 * logits(seed, size=64) for seed in (10, 11))
    p, log_q = (v / temperature).softmax(1), (z / temperature).log_softmax(1)
    expected = temperature**2 * (p * (p.log() - log_q)).sum(1)
    found = temperature**2 * losses.tempered_kl(v.float(), z.float(), temperature)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float(), rtol=1e-5, atol=0)


def test_half_logits_are_computed_as_float32() -> None:
    v, z = logits(8).to(torch.bfloat16), logits(9).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses.tempered_kl(v, student_logits=z, temperature=2.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, losses.tempered_kl(v.float(), z.float(), 2.0))


def test_float64_stays() -> None:
    assert losses.transformed_teacher_kl(logits(10), logits(11), 4.0).dtype == torch.float64


def test_power_sum_of_float32_keeps_its_precision_at_large_logits() -> None:
    v = logits(11)
    torch.testing.assert_close(
        power_sums((v + 1000).float(), 10.0).double(), power_sums(v, 10.0), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(
        power_sums(v.float(), 10.0).double(), power_sums(v, 10.0), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_normalized_entropy_is_the_shannon_entropy_over_its_largest(temperature: float) -> None:
    v = logits(12)
    p = (v / temperature).softmax(1)
    entropy = -(p * p.log()).sum(1)
    torch.testing.assert_close(losses.normalized_entropy(v, temperature), entropy / math.log(7))


def test_normalized_entropy_has_its_bounds_and_reaches_them() -> None:
    for classes in (2, 3, 10, 1000):
        even = losses.normalized_entropy(torch.zeros(1, classes))
        sure = losses.normalized_entropy(1e4 * torch.eye(classes)[:5])
        torch.testing.assert_close(even, torch.ones(1), rtol=0, atol=2e-6)
        assert (sure == 0).all()
        for scale in (0.0, 1e-4, 1e-2, 1.0, 30.0, 1e6):
            found = losses.normalized_entropy(
                scale * torch.randn(500, classes, generator=torch.Generator().manual_seed(classes))
            )
            assert ((found >= 0) & (found <= 1)).all()


def test_one_less_the_normalized_entropy_is_the_divergence_from_uniform() -> None:
    v = logits(13)
    log_uniform = torch.full((5, 7), -math.log(7), dtype=torch.float64)
    divergence = losses.kl_divergence(v.log_softmax(1), log_uniform)
    torch.testing.assert_close(1 - losses.normalized_entropy(v), divergence / math.log(7))
