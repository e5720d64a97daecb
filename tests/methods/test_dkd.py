"""Test DKD: the decomposition of KD, its closed-form gradient, extremes, labels and warm-up."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from methods import METHODS, Batch, Mix, Progress, Task, losses
from orchestrator.extensions.method_checks import build_batch

SIZE, T = 6, 4.0


def draw(seed: int, classes: int = 7, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(SIZE, classes, generator=generator, dtype=torch.float64)


def labels(classes: int = 7) -> Tensor:
    return torch.arange(SIZE) % classes


def by_loop(teacher: Tensor, student: Tensor, target: Tensor, temperature: float) -> Tensor:
    """Return TCKD and NCKD of each sample, (B, 2), from plain probabilities."""
    found = []
    for v, z, y in zip(teacher, student, target.tolist(), strict=True):
        p, q = ((each / temperature).softmax(0).tolist() for each in (v, z))
        others = [k for k in range(len(p)) if k != y]
        binary = [(p[y], q[y]), (sum(p[k] for k in others), sum(q[k] for k in others))]
        among = [(p[k] / binary[1][0], q[k] / binary[1][1]) for k in others]
        pairs = [torch.tensor(each, dtype=torch.float64) for each in (binary, among)]
        found.append(
            [float((each[:, 0] * (each[:, 0] / each[:, 1]).log()).sum()) for each in pairs]
        )
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("temperature", [0.5, T, 100.0])
def test_terms_are_those_of_the_probabilities_and_sum_to_kd(
    classes: int, temperature: float
) -> None:
    teacher, student, target = draw(1, classes), draw(2, classes), labels(classes)
    target_term, others = losses.decoupled_kl(teacher, student, target, temperature)
    expected = by_loop(teacher, student, target, temperature)
    torch.testing.assert_close(torch.stack([target_term, others], 1), expected)
    p_y = (teacher / temperature).softmax(1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(
        target_term + (1 - p_y) * others, losses.tempered_kl(teacher, student, temperature)
    )


def test_gradients_have_their_closed_form() -> None:
    """With m = log q_y - log(1 - q_y): dTCKD/dm = q_y - p_y, dNCKD/dz = (q^ - p^) / T."""
    teacher, student, target = draw(1), draw(2).requires_grad_(), labels()
    at_label = torch.nn.functional.one_hot(target, 7).bool()
    p, q = ((each / T).softmax(1).detach() for each in (teacher, student))
    among_p, among_q = (
        each.masked_fill(at_label, 0) / (1 - each[at_label])[:, None] for each in (p, q)
    )
    margin = torch.where(at_label, 1.0, -among_q) / T
    expected = ((q - p)[at_label][:, None] * margin, (among_q - among_p) / T)
    terms = losses.decoupled_kl(teacher, student, target, T)
    for term, gradient in zip(terms, expected, strict=True):
        found = torch.autograd.grad(term.sum(), student, retain_graph=True)[0]
        torch.testing.assert_close(found, gradient)


def test_gradients_agree_with_finite_differences() -> None:
    teacher, student = draw(1), draw(2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logits: torch.stack(losses.decoupled_kl(teacher, logits, labels(), T)), student
    )


def test_a_shift_of_the_logits_has_no_effect() -> None:
    teacher, student, shift = draw(1), draw(2), draw(3, 1)
    plain = losses.decoupled_kl(teacher, student, labels(), T)
    moved = losses.decoupled_kl(teacher - 2 * shift, student + shift, labels(), T)
    torch.testing.assert_close(moved, plain)


@pytest.mark.parametrize("size", [60.0, 1e4])
@pytest.mark.parametrize("right", [True, False])
def test_probabilities_at_zero_and_one_have_finite_terms(size: float, right: bool) -> None:
    """The student's probability of the label rounds to 1 or 0."""
    target = labels()
    certain = size * torch.nn.functional.one_hot(target if right else (target + 1) % 7, 7)
    student = certain.float().requires_grad_()
    terms = losses.decoupled_kl(draw(1).float(), student, target, 1.0)
    (gradient,) = torch.autograd.grad(torch.stack(terms).sum(), student)
    assert all(bool(each.isfinite().all()) for each in (*terms, gradient))
    exact = losses.decoupled_kl(draw(1).float().double(), student.double(), target, 1.0)
    torch.testing.assert_close(torch.stack(terms).double(), torch.stack(exact), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_logits_are_computed_in_full_precision(kind: torch.dtype) -> None:
    teacher, student = draw(1).to(kind), draw(2).to(kind)
    found = losses.decoupled_kl(teacher, student, labels(), T)
    exact = losses.decoupled_kl(teacher.double(), student.double(), labels(), T)
    assert found[0].dtype == found[1].dtype == torch.float32
    torch.testing.assert_close(torch.stack(found).double(), torch.stack(exact), rtol=1e-5, atol=0)


def dkd(**settings: Any) -> Any:
    kind = METHODS["dkd"]
    method = kind(kind.Settings.build({"warmup": 0.0, **settings}))
    method.prepare(None, Task(classes=10, samples=24, epochs=3))
    return method


def test_objective_is_the_sum_of_the_three_terms() -> None:
    method = dkd(alpha=2.0, beta=3.0)
    batch = build_batch(method)
    teacher, student = batch.teacher_logits.double(), batch.student.logits.detach().double()
    target, others = by_loop(teacher, student, batch.labels, T).mean(0)
    hard = torch.nn.functional.cross_entropy(student, batch.labels)
    expected = hard + T**2 * (2 * target + 3 * others)
    torch.testing.assert_close(method(batch).loss.double(), expected, rtol=1e-5, atol=1e-5)


def test_unlabelled_samples_do_not_count_and_blended_ones_count_by_share() -> None:
    method = dkd()
    batch = build_batch(method)

    def soft(labels: Tensor, mix: Mix | None = None, rows: slice = slice(None)) -> Tensor:
        part = Batch(
            batch.index[rows],
            batch.inputs,
            labels[rows],
            type(batch.student)(*(each[rows] for each in batch.student)),
            type(batch.student)(*(each[rows] for each in batch.teacher or ())),
            mix=mix,
        )
        terms = method(part).terms
        return torch.stack([terms["target"], terms["non_target"]])

    hidden = torch.where(torch.arange(8) < 3, batch.labels, -1)
    torch.testing.assert_close(soft(hidden), soft(batch.labels, rows=slice(3)))
    partners, share = batch.labels.roll(1), 0.3
    torch.testing.assert_close(
        soft(batch.labels, Mix(partners, torch.full((8,), share))),
        share * soft(batch.labels) + (1 - share) * soft(partners),
    )
    assert not soft(torch.full((8,), -1)).any()
    whole = replace(batch, all_labelled=True)
    assert torch.equal(method(whole).loss, method(batch).loss)


def test_warm_up_is_the_published_one_and_follows_from_the_progress() -> None:
    method = METHODS["dkd"](METHODS["dkd"].Settings())
    method.prepare(None, Task(classes=10, samples=24, epochs=240))
    batch = build_batch(method)
    full = dkd()(batch)
    soft = full.loss - full.terms["cross_entropy"]
    for epoch in (1, 7, 20, 21, 240):
        if epoch > 1:  # as after a resume
            method.end_epoch(Progress(epoch - 1, 240, {}))
        found = method(batch).loss - full.terms["cross_entropy"]
        torch.testing.assert_close(found, min(epoch / 20, 1.0) * soft, rtol=1e-5, atol=1e-5)
        assert method.end_epoch(Progress(epoch, 240, {})) == {
            "warmup": pytest.approx(min(epoch / 20, 1.0))
        }
