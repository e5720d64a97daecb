"""Test Tf-KD against KD with its virtual teacher written out, and against label smoothing."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods import METHODS, Batch, Method, Output, Task

CLASSES, SIZE = 5, 8
EXACT: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def seen() -> Batch:
    generator = torch.Generator().manual_seed(4)
    logits = (2 * torch.randn(SIZE, CLASSES, generator=generator)).requires_grad_()
    labels = torch.randint(CLASSES, (SIZE,), generator=generator)
    return Batch(torch.arange(SIZE), logits.detach(), labels, Output(logits, logits.detach()))


def kd_of(seen: Batch, **settings: Any) -> Tensor:
    kind = METHODS["kd"]
    found = kind(kind.Settings.build(settings))
    found.prepare(None, Task(classes=CLASSES, samples=SIZE, epochs=1))
    return found(seen).loss  # type: ignore[no-any-return]


def virtual(alpha: float, correct: float, temperature: float) -> Method:
    kind = METHODS["tf_kd"]
    return kind(
        kind.Settings.build({"alpha": alpha, "correct": correct, "temperature": temperature})
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_the_virtual_teacher_is_right_about_every_label(seen: Batch, temperature: float) -> None:
    correct = 0.95
    p = torch.full((SIZE, CLASSES), (1 - correct) / (CLASSES - 1)).scatter(
        1, seen.labels[:, None], correct
    )
    expected = kd_of(replace(seen, teacher=Output(p.log(), p)), alpha=0.4, temperature=temperature)
    torch.testing.assert_close(
        virtual(0.4, correct, temperature)(seen).loss, expected, rtol=1e-4, atol=1e-4
    )


def test_the_virtual_teacher_at_temperature_one_is_label_smoothing(seen: Batch) -> None:
    alpha, correct = 0.4, 0.9
    (found,) = torch.autograd.grad(virtual(alpha, correct, 1.0)(seen).loss, seen.student.logits)
    share = alpha * CLASSES * (1 - correct) / (CLASSES - 1)
    smoothed = functional.cross_entropy(seen.student.logits, seen.labels, label_smoothing=share)
    (expected,) = torch.autograd.grad(smoothed, seen.student.logits)
    torch.testing.assert_close(found, expected, **EXACT)


def test_unlabelled_sample_has_no_virtual_teacher_term(seen: Batch) -> None:
    chosen, half = virtual(0.4, 0.95, 4.0), torch.arange(SIZE) < SIZE // 2
    unlabelled = chosen(replace(seen, labels=torch.full((SIZE,), -1)))
    assert [
        float(value) for value in (unlabelled.loss.detach(), *unlabelled.terms.values())
    ] == pytest.approx([0, 0, 0], abs=1e-6)
    alone = Batch(
        seen.index[half],
        seen.inputs,
        seen.labels[half],
        Output(*(each[half] for each in seen.student)),
    )
    torch.testing.assert_close(
        chosen(replace(seen, labels=seen.labels.where(half, -1))).loss, chosen(alone).loss, **EXACT
    )


def doubled(seen: Batch, count: int = 20) -> tuple[Tensor, Tensor]:
    """Return logits (B, K) in float64, and the teacher's p (B, K) at a = 0.99."""
    p = torch.full((SIZE, count), 0.01 / (count - 1), dtype=torch.float64).scatter(
        1, seen.labels[:, None], 0.99
    )
    return torch.randn(
        SIZE, count, generator=torch.Generator().manual_seed(9), dtype=torch.float64
    ), p


def seen_by(method: Method, seen: Batch, logits: Tensor) -> tuple[float, float]:
    """Return the tracked cross entropy and distillation of float32 logits."""
    terms = method(replace(seen, student=Output(logits.float(), logits.float()))).terms
    return float(terms["cross_entropy"]), float(terms["distillation"])


@pytest.mark.parametrize("temperature", [0.005, 1.0, 20.0, 1000.0, 1e4])
def test_the_divergence_is_that_of_float64_at_any_temperature(
    seen: Batch, temperature: float
) -> None:
    logits, p = doubled(seen)
    log_p, log_q = (
        (p.log() / temperature).log_softmax(1),
        (logits.float().double() / temperature).log_softmax(1),
    )
    apart = log_p - log_q
    # sum p (u + e^-u - 1) is the same sum without its cancellation, if e^-u is finite
    each = log_p.exp() * (torch.expm1(-apart) + apart) if temperature >= 1 else log_p.exp() * apart
    expected = float(temperature**2 * each.sum(1).mean())
    assert seen_by(virtual(0.4, 0.99, temperature), seen, logits)[1] == pytest.approx(
        expected, rel=1e-4
    )


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_released_form_equals_the_released_code(seen: Batch, temperature: float) -> None:
    """KLDivLoss averages over samples and classes, the student has no temperature, T divides p."""
    logits, p = doubled(seen)
    kind = METHODS["tf_kd"]
    settings = {"form": "released", "alpha": 0.1, "temperature": temperature, "multiplier": 100.0}
    method = kind(kind.Settings.build(settings))
    wanted = (p / temperature).softmax(1)
    soft = 100 * (wanted * (wanted.log() - logits.log_softmax(1))).mean()
    hard = -logits.log_softmax(1).gather(1, seen.labels[:, None]).mean()
    assert seen_by(method, seen, logits) == pytest.approx((float(hard), float(soft)), rel=1e-5)
    whole = method(replace(seen, student=Output(logits, logits))).loss
    torch.testing.assert_close(whole, 0.9 * hard + 0.1 * soft, rtol=1e-9, atol=1e-9)
