"""Test MLKD: the terms of Gram matrices written out, gradients, invariances and ranks."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods import METHODS, Batch, Output
from tests.methods.test_ranks import Ranks, part

SIZE, CLASSES = 12, 5
ALL = (4.0, 2.0, 3.0, 5.0, 6.0)


def draw(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(SIZE, CLASSES, generator=generator, dtype=torch.float64)


def batch_of(student: Tensor, teacher: Tensor) -> Batch:
    empty = torch.empty(len(student), 0)
    labels = torch.arange(len(student)) % CLASSES
    return Batch(
        torch.arange(len(student)), empty, labels, Output(student, empty), Output(teacher, empty)
    )


def mlkd(**settings: Any) -> Any:
    return METHODS["mlkd"](METHODS["mlkd"].Settings.build(settings))


@pytest.mark.parametrize("augment", [True, False])
def test_terms_are_those_of_the_gram_matrices(augment: bool) -> None:
    student, teacher = draw(1), draw(2)
    instance, batch_level, class_level = torch.zeros(3, dtype=torch.float64)
    for t in ALL if augment else ALL[:1]:
        q, p = ((each / t).softmax(1) for each in (student, teacher))
        instance = instance + t**2 * functional.kl_div(q.log(), p, reduction="batchmean")
        for i in range(SIZE):
            for j in range(SIZE):
                batch_level = batch_level + (p[i] @ p[j] - q[i] @ q[j]) ** 2 / SIZE
        for k in range(CLASSES):
            for m in range(CLASSES):
                class_level = class_level + (p[:, k] @ p[:, m] - q[:, k] @ q[:, m]) ** 2 / CLASSES
    settings = {"lambda_ce": 0.3, "instance": 2.0, "batch_level": 5.0, "class_level": 7.0}
    batch = batch_of(student, teacher)
    objective = mlkd(augment=augment, **settings)(batch)
    terms = objective.terms
    torch.testing.assert_close(terms["instance"], instance)
    torch.testing.assert_close(terms["batch_level"], batch_level)
    torch.testing.assert_close(terms["class_level"], class_level)
    expected = 0.3 * batch.cross_entropy() + 2 * instance + 5 * batch_level + 7 * class_level
    torch.testing.assert_close(objective.loss, expected)


def test_the_teacher_itself_has_no_loss_but_the_cross_entropy() -> None:
    terms = mlkd()(batch_of(draw(1), draw(1))).terms
    for name in ("instance", "batch_level", "class_level"):
        assert terms[name].abs() < 1e-9


def test_relations_ignore_what_they_are_invariant_to() -> None:
    """A common permutation of the classes keeps similarities, one of the samples correlations."""
    teacher = draw(1)
    order = torch.tensor([1, 2, 3, 4, 0])
    classes = mlkd()(batch_of(teacher[:, order], teacher)).terms
    assert classes["batch_level"].abs() < 1e-9 and classes["class_level"] > 0.01
    samples = mlkd()(batch_of(teacher.roll(1, 0), teacher)).terms
    assert samples["class_level"].abs() < 1e-9 and samples["batch_level"] > 0.01


def test_gradients_agree_with_finite_differences() -> None:
    teacher = draw(2)
    assert torch.autograd.gradcheck(
        lambda logits: mlkd(standardize=True)(batch_of(logits, teacher)).loss,
        draw(1).requires_grad_(),
    )


def test_ranks_compare_the_pairs_of_the_global_batch() -> None:
    batch, ranks = batch_of(draw(1), draw(2)), Ranks()

    def relations(of: Batch) -> Tensor:
        terms = mlkd()(of).terms
        return torch.stack([terms["batch_level"], terms["class_level"]])

    for found in ranks.play(lambda rank: relations(part(batch, rank, ranks.mean))):
        torch.testing.assert_close(found, relations(batch))
