"""Test DIST: correlations of NumPy, affine invariance, gradients, constant predictions, ranks."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from methods import METHODS, Batch, Output
from methods.correlation import correlate_classes, correlate_samples
from tests.methods.test_ranks import Ranks, part

SIZE, CLASSES, T = 12, 7, 4.0


def draw(seed: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(SIZE, CLASSES, generator=generator, dtype=torch.float64)


def batch_of(student: Tensor, teacher: Tensor, **inputs: Any) -> Batch:
    count = len(student)
    labels = torch.arange(count) % CLASSES
    empty = torch.empty(count, 0)
    outputs = Output(student, empty), Output(teacher, empty)
    return Batch(torch.arange(count), empty, labels, *outputs, **inputs)


def relations(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return both relations of probabilities, whose logarithms are logits at T = 1."""
    method = METHODS["dist"](METHODS["dist"].Settings.build({"temperature": 1.0}))
    terms = method(batch_of(student.log(), teacher.log())).terms
    return terms["inter_class"], terms["intra_class"]


def test_correlations_are_those_of_numpy() -> None:
    first, second = draw(1).softmax(1), draw(2).softmax(1)
    rows = [np.corrcoef(first[i], second[i])[0, 1] for i in range(SIZE)]
    columns = [np.corrcoef(first[:, k], second[:, k])[0, 1] for k in range(CLASSES)]
    options: dict[str, Any] = {"rtol": 1e-6}
    np.testing.assert_allclose(correlate_classes(first, second).numpy(), rows, **options)
    found = correlate_samples(first, second, batch_of(first, second))
    np.testing.assert_allclose(found.numpy(), columns, **options)


def test_objective_is_the_weighted_sum() -> None:
    settings = {"beta": 3.0, "gamma": 5.0, "temperature": T}
    method = METHODS["dist"](METHODS["dist"].Settings.build(settings))
    student, teacher = draw(1), draw(2)
    q, p = ((each / T).softmax(1).numpy() for each in (student, teacher))
    among_classes = 1 - np.mean([np.corrcoef(q[i], p[i])[0, 1] for i in range(SIZE)])
    among_samples = 1 - np.mean([np.corrcoef(q[:, k], p[:, k])[0, 1] for k in range(CLASSES)])
    batch = batch_of(student, teacher)
    expected = float(batch.cross_entropy()) + T**2 * (3 * among_classes + 5 * among_samples)
    assert float(method(batch).loss) == pytest.approx(expected, rel=1e-6)


def test_positive_affine_maps_of_rows_leave_the_relation_among_classes_at_zero() -> None:
    teacher = draw(1).softmax(1)
    share = torch.linspace(0.1, 0.9, SIZE, dtype=torch.float64)[:, None]
    inter, intra = relations(share * teacher + (1 - share) / CLASSES, teacher)
    assert inter.abs() < 1e-6 and intra > 1e-3


def test_positive_affine_maps_of_columns_leave_the_relation_among_samples_at_zero() -> None:
    teacher, other = draw(1).softmax(1), draw(2).softmax(1)[:1]
    inter, intra = relations(0.3 * teacher + 0.7 * other, teacher)
    assert intra.abs() < 1e-6 and inter > 1e-3


def test_the_teacher_itself_has_no_loss_and_its_opposite_the_largest() -> None:
    teacher = draw(1).softmax(1)
    assert all(each.abs() < 1e-6 for each in relations(teacher, teacher))
    for found in relations((1 - teacher) / (CLASSES - 1), teacher):  # correlation -1
        torch.testing.assert_close(found, torch.tensor(2.0, dtype=found.dtype))


def test_gradients_agree_with_finite_differences() -> None:
    method = METHODS["dist"](METHODS["dist"].Settings())
    teacher = draw(2)
    assert torch.autograd.gradcheck(
        lambda logits: method(batch_of(logits, teacher)).loss, draw(1).requires_grad_()
    )


@pytest.mark.parametrize("student", [torch.zeros(4, CLASSES), torch.ones(1, CLASSES)])
def test_constant_predictions_have_correlation_zero_and_a_finite_gradient(student: Tensor) -> None:
    method = METHODS["dist"](METHODS["dist"].Settings())
    logits = student.clone().requires_grad_()
    objective = method(batch_of(logits, draw(2)[: len(student)].float()))
    assert objective.terms["inter_class"] == objective.terms["intra_class"] == 1
    (gradient,) = torch.autograd.grad(objective.loss, logits)
    assert gradient.isfinite().all()


def test_ranks_correlate_the_global_batch() -> None:
    """A mean over the ranks' own correlations is another value."""
    student, teacher, ranks = draw(1), draw(2), Ranks()
    method = METHODS["dist"](METHODS["dist"].Settings())
    batch = batch_of(student, teacher)
    whole = method(batch).terms["intra_class"]
    found = ranks.play(lambda rank: method(part(batch, rank, ranks.mean)).terms["intra_class"])
    torch.testing.assert_close(torch.stack(found), whole.expand(len(found)))
    own = [method(part(batch, rank, batch.mean)).terms["intra_class"] for rank in range(len(found))]
    assert (torch.stack(own).mean() - whole).abs() > 0.01
