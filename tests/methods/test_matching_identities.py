"""Test identities of KD, TTM and WTTM (arXiv 2402.11148) by independent float64 computations."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods import losses

BATCH, CLASSES = 6, 8
temperatures = pytest.mark.parametrize("temperature", [1.25, 2.0, 4.0, 10.0])


def power_sums(logits: Tensor, temperature: float) -> Tensor:
    return losses.log_power_sum(logits, temperature).exp()


def draw(seed: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(BATCH, CLASSES, generator=generator, dtype=torch.float64)


@pytest.fixture
def v() -> Tensor:
    """Return teacher logits."""
    return draw(0)


@pytest.fixture
def z() -> Tensor:
    """Return student logits."""
    return draw(1)


def released_ttm(v: Tensor, z: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return TTM and WTTM as in the authors' code, by powers of probabilities.

    float64 prevents underflow.
    """
    target = v.softmax(1) ** gamma
    norm = target.sum(1)
    target = target / norm.unsqueeze(1)
    divergence = functional.kl_div(z.log_softmax(1), target, reduction="none").sum(1)
    return divergence.mean(), (norm * divergence).mean()


def released_kd(v: Tensor, z: Tensor, temperature: float) -> Tensor:
    """Return RepDistiller's DistillKL: the sum over classes times T^2 over the batch size."""
    log_q, p = (z / temperature).log_softmax(1), (v / temperature).softmax(1)
    return functional.kl_div(log_q, p, reduction="sum") * temperature**2 / len(v)


def shannon_entropy(logits: Tensor) -> Tensor:
    """Return the entropy in nats, (B,)."""
    p = logits.softmax(1)
    return -(p * p.log()).sum(1)


def renyi_entropy(logits: Tensor, order: float) -> Tensor:
    """Return log(sum of p^order) / (1 - order), (B,)."""
    return (logits.softmax(1) ** order).sum(1).log() / (1 - order)


def test_1_temperature_one_makes_all_three_the_same(v: Tensor, z: Tensor) -> None:
    expected = released_kd(v, z, 1.0)
    divergence, power_sum = losses.transformed_teacher_kl(v, z, 1.0), power_sums(v, 1.0)
    torch.testing.assert_close(power_sum, torch.ones(BATCH, dtype=torch.float64))
    torch.testing.assert_close(divergence.mean(), expected)
    torch.testing.assert_close((power_sum * divergence).mean(), expected)
    torch.testing.assert_close(losses.tempered_kl(v, z, 1.0).mean(), expected)


def test_2_infinite_temperature_is_label_smoothing_with_a_uniform_target(
    v: Tensor, z: Tensor
) -> None:
    uniform = torch.full((BATCH, CLASSES), 1 / CLASSES, dtype=torch.float64)
    expected = -(uniform * z.log_softmax(1)).sum(1) - math.log(CLASSES)
    torch.testing.assert_close(losses.transformed_teacher_kl(v, z, 1e15), expected)
    torch.testing.assert_close(
        power_sums(v, 1e15), torch.full((BATCH,), float(CLASSES), dtype=torch.float64)
    )


@temperatures
def test_3_ttm_is_kd_with_a_renyi_regulariser(v: Tensor, z: Tensor, temperature: float) -> None:
    renyi, shannon = renyi_entropy(z, 1 / temperature), shannon_entropy(v / temperature)
    right = temperature * losses.tempered_kl(v, z, temperature) - (temperature - 1) * (
        renyi - shannon
    )
    torch.testing.assert_close(
        losses.transformed_teacher_kl(v, z, temperature), right, rtol=1e-10, atol=1e-10
    )


@temperatures
def test_4_loss_of_ttm_from_that_of_kd(v: Tensor, z: Tensor, temperature: float) -> None:
    weight, labels = 0.9, torch.arange(BATCH)
    beta = weight * temperature / (1 - weight)
    hard = functional.cross_entropy(z, labels)
    kd = (1 - weight) * hard + weight * released_kd(v, z, temperature)
    renyi = renyi_entropy(z, 1 / temperature).mean()
    constant = beta * (temperature - 1) * shannon_entropy(v / temperature).mean()
    right = (kd - weight * temperature * (temperature - 1) * renyi) / (1 - weight) + constant
    torch.testing.assert_close(
        hard + beta * losses.transformed_teacher_kl(v, z, temperature).mean(), right
    )


@temperatures
def test_5_gradients_are_those_of_the_formulas(v: Tensor, z: Tensor, temperature: float) -> None:
    z.requires_grad_()
    p_t, q, q_t = (
        (v / temperature).softmax(1),
        z.detach().softmax(1),
        (z.detach() / temperature).softmax(1),
    )
    power_sum = (v.softmax(1) ** (1 / temperature)).sum(1, keepdim=True)
    weighted = power_sums(v, temperature) * losses.transformed_teacher_kl(v, z, temperature)
    (of_wttm,) = torch.autograd.grad(weighted.mean(), z)
    torch.testing.assert_close(of_wttm, power_sum * (q - p_t) / BATCH)
    (of_ttm,) = torch.autograd.grad(losses.transformed_teacher_kl(v, z, temperature).mean(), z)
    torch.testing.assert_close(of_ttm, (q - p_t) / BATCH)
    (of_kd,) = torch.autograd.grad(losses.tempered_kl(v, z, temperature).mean(), z)
    torch.testing.assert_close(of_kd, (q_t - p_t) / temperature / BATCH)


@temperatures
def test_6_power_sum_has_its_bounds_and_reaches_them(v: Tensor, temperature: float) -> None:
    largest = CLASSES ** (1 - 1 / temperature)
    found = power_sums(v, temperature)
    assert (found >= 1).all()
    assert (found <= largest).all()
    one_hot = 1e4 * torch.eye(CLASSES, dtype=torch.float64)
    torch.testing.assert_close(
        power_sums(one_hot, temperature), torch.ones(CLASSES, dtype=torch.float64)
    )
    even = torch.zeros(1, CLASSES, dtype=torch.float64)
    torch.testing.assert_close(
        power_sums(even, temperature), torch.full((1,), largest, dtype=torch.float64)
    )


@temperatures
def test_7_ttm_makes_a_tempered_teacher_and_kd_the_teacher(v: Tensor, temperature: float) -> None:
    zero, shift = torch.zeros(BATCH, dtype=torch.float64), 2.5
    torch.testing.assert_close(
        losses.transformed_teacher_kl(v, v / temperature + shift, temperature), zero
    )
    assert (losses.transformed_teacher_kl(v, v, temperature) > 1e-3).all()
    torch.testing.assert_close(losses.tempered_kl(v, v + shift, temperature), zero)


@temperatures
def test_8_released_code_computes_the_same(v: Tensor, z: Tensor, temperature: float) -> None:
    ttm, wttm = released_ttm(v, z, 1 / temperature)
    divergence = losses.transformed_teacher_kl(v, z, temperature)
    torch.testing.assert_close(divergence.mean(), ttm, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        (power_sums(v, temperature) * divergence).mean(), wttm, rtol=1e-12, atol=1e-12
    )


@temperatures
def test_9_constant_shifts_of_the_logits_change_nothing(
    v: Tensor, z: Tensor, temperature: float
) -> None:
    torch.testing.assert_close(power_sums(v + 7, temperature), power_sums(v, temperature))
    for loss in (losses.transformed_teacher_kl, losses.tempered_kl):
        torch.testing.assert_close(loss(v + 7, z - 11, temperature), loss(v, z, temperature))


def test_10_kd_at_a_high_temperature_matches_centred_logits(v: Tensor, z: Tensor) -> None:
    temperature = 1e4
    difference = (z - z.mean(1, keepdim=True)) - (v - v.mean(1, keepdim=True))
    expected = (difference**2).sum(1) / (2 * CLASSES)
    torch.testing.assert_close(
        temperature**2 * losses.tempered_kl(v, z, temperature), expected, rtol=1e-3, atol=0
    )


@temperatures
def test_11_weighting_adds_the_covariance_of_weight_and_divergence(
    v: Tensor, z: Tensor, temperature: float
) -> None:
    power_sum, divergence = (
        power_sums(v, temperature),
        losses.transformed_teacher_kl(v, z, temperature),
    )
    covariance = torch.cov(torch.stack([power_sum, divergence]), correction=0)[0, 1]
    torch.testing.assert_close(
        (power_sum * divergence).mean(), power_sum.mean() * divergence.mean() + covariance
    )


@temperatures
def test_12_a_constant_power_sum_is_a_larger_beta(v: Tensor, z: Tensor, temperature: float) -> None:
    orders = torch.stack(
        [
            torch.randperm(CLASSES, generator=torch.Generator().manual_seed(seed))
            for seed in range(BATCH)
        ]
    )
    same = v[0].expand(BATCH, CLASSES).gather(1, orders)
    power_sum, divergence = (
        power_sums(same, temperature),
        losses.transformed_teacher_kl(same, z, temperature),
    )
    torch.testing.assert_close((power_sum * divergence).mean(), power_sum[0] * divergence.mean())
