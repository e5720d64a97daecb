"""Test the Context-Aware Module: its symmetries, its initial state, its weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods.cam import FULL_ATTENTION, INDUCED, ContextAware, class_weights

TEMPERATURE = 4.0
every_size = pytest.mark.parametrize("classes", [2, 10, 100, 300, 1000])


def awake(
    classes: int, width: int = 16, heads: int = 4, dtype: torch.dtype = torch.float64
) -> ContextAware:
    """Return a module that has left its initial state."""
    torch.manual_seed(2)
    module = ContextAware(classes, width, heads, TEMPERATURE)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape))
    return module.to(dtype)


def logits(
    classes: int, size: int = 3, dtype: torch.dtype = torch.float64, scale: float = 3.0
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return tuple(
        scale * torch.randn(size, classes, generator=generator, dtype=torch.float64).to(dtype)
        for _ in range(2)
    )  # type: ignore[return-value]


@every_size
def test_initial_scores_are_zero(classes: int) -> None:
    module = ContextAware(classes, 16, 4, TEMPERATURE)
    scores = module(*logits(classes, dtype=torch.float32))
    assert torch.equal(scores, torch.zeros(3, classes))
    torch.testing.assert_close(class_weights(scores), torch.ones(3, classes))


@every_size
def test_weights_are_positive_and_have_mean_one(classes: int) -> None:
    weights = class_weights(awake(classes)(*logits(classes)))
    assert (weights > 0).all() and weights.std() > 1e-3
    torch.testing.assert_close(weights.mean(1), torch.ones(3).double(), rtol=0, atol=1e-12)


@every_size
def test_the_reweighted_teacher_is_a_distribution_and_the_scores_added_to_its_logits(
    classes: int,
) -> None:
    teacher, student = logits(classes)
    scores = awake(classes)(teacher, student)
    p, w = (teacher / TEMPERATURE).softmax(1), class_weights(scores)
    mixed = w * p / (w * p).sum(1, keepdim=True)
    assert (mixed >= 0).all()
    torch.testing.assert_close(mixed.sum(1), torch.ones(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        mixed, (teacher / TEMPERATURE + scores).softmax(1), rtol=1e-10, atol=1e-15
    )


def test_a_constant_added_to_the_scores_changes_no_weight() -> None:
    scores = awake(10)(*logits(10))
    torch.testing.assert_close(
        class_weights(scores + 17.0), class_weights(scores), rtol=1e-12, atol=0
    )


def test_a_constant_added_to_the_logits_changes_no_score() -> None:
    module, (teacher, student) = awake(10), logits(10)
    torch.testing.assert_close(
        module(teacher + 5, student - 9), module(teacher, student), rtol=1e-10, atol=1e-12
    )


@every_size
def test_classes_in_another_order_with_their_embeddings_give_their_scores_in_that_order(
    classes: int,
) -> None:
    module, (teacher, student) = awake(classes), logits(classes)
    before = module(teacher, student)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(1))
    order = order.roll(1) if torch.equal(order, torch.arange(classes)) else order
    without = module(teacher[:, order], student[:, order])
    with torch.no_grad():
        module.classes.copy_(module.classes[order])
    torch.testing.assert_close(
        module(teacher[:, order], student[:, order]), before[:, order], rtol=1e-9, atol=1e-10
    )
    assert not torch.allclose(without, before[:, order], atol=1e-4), (
        "a class is known by its embedding"
    )


@every_size
def test_samples_are_independent(classes: int) -> None:
    module, (teacher, student) = awake(classes), logits(classes)
    alone = torch.cat([module(teacher[i : i + 1], student[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(module(teacher, student), alone, rtol=1e-9, atol=1e-10)


@every_size
def test_every_class_attends_to_every_other(classes: int) -> None:
    module, (teacher, student) = awake(classes), logits(classes, size=1)
    before = module(teacher, student)
    teacher[0, 0] += 8
    assert (module(teacher, student) != before).all()


@pytest.mark.parametrize("classes", [FULL_ATTENTION, FULL_ATTENTION + 1])
def test_beyond_some_classes_attention_goes_through_learned_tokens(classes: int) -> None:
    module = ContextAware(classes, 16, 4, TEMPERATURE)
    names = {name.split(".")[0] for name, _ in module.named_parameters()}
    extra = {"induced", "gathering"} if classes > FULL_ATTENTION else set()
    assert names == {"lift", "classes", "attention", "mlp"} | extra
    if module.induced is not None:
        assert module.induced.shape == (INDUCED, 16)


def test_the_full_form_is_attention_a_residual_sum_and_an_mlp_written_out() -> None:
    module, (teacher, student) = awake(10, width=8, heads=2), logits(10)
    p, q = (teacher / TEMPERATURE).softmax(1), (student / TEMPERATURE).softmax(1)
    state = module.state_dict()
    x = (
        torch.stack([p, q, p - q], 2) @ state["lift.weight"].T
        + state["lift.bias"]
        + state["classes"]
    )
    projected = x @ state["attention.in_proj_weight"].T + state["attention.in_proj_bias"]
    queries, keys, values = (
        part.reshape(3, 10, 2, 4).transpose(1, 2) for part in projected.chunk(3, dim=2)
    )
    attended = (queries @ keys.transpose(2, 3) / 4**0.5).softmax(3) @ values
    x = (
        x
        + attended.transpose(1, 2).reshape(3, 10, 8) @ state["attention.out_proj.weight"].T
        + state["attention.out_proj.bias"]
    )
    hidden = nn.functional.gelu(x @ state["mlp.0.weight"].T + state["mlp.0.bias"])
    torch.testing.assert_close(
        module(teacher, student),
        (hidden @ state["mlp.2.weight"].T)[:, :, 0],
        rtol=1e-10,
        atol=1e-12,
    )


@every_size
def test_no_gradient_reaches_the_logits_and_one_reaches_every_parameter(classes: int) -> None:
    module, (teacher, student) = (
        awake(classes, dtype=torch.float32),
        logits(classes, dtype=torch.float32),
    )
    teacher.requires_grad_(), student.requires_grad_()
    module(teacher, student).square().sum().backward()
    assert teacher.grad is None and student.grad is None
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in module.parameters()
    )


@every_size
def test_autocast_and_half_logits_leave_the_scores_in_float32(classes: int) -> None:
    module, given = awake(classes, dtype=torch.float32), logits(classes, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = module(*given)
        half = module(*(one.bfloat16() for one in given))
    assert torch.equal(inside, module(*given)) and half.dtype == torch.float32


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_extreme_logits_give_finite_scores(scale: float) -> None:
    assert awake(10)(*logits(10, scale=scale)).isfinite().all()


def test_scores_are_equal_without_gradients(monkeypatch: Any) -> None:
    """Attention has a different code path there."""
    for classes in (10, 300):
        module, given = awake(classes, dtype=torch.float32), logits(classes, dtype=torch.float32)
        expected = module(*given).detach()
        with torch.no_grad():
            torch.testing.assert_close(module.eval()(*given), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("width", "heads"), [(1, 1), (16, 1), (16, 4), (32, 4)])
def test_number_of_parameters_is_small(width: int, heads: int) -> None:
    module = ContextAware(10, width, heads, TEMPERATURE)
    expected = (
        4 * width + 10 * width + 4 * (width * width + width) + (width * width + width) + width
    )
    assert sum(parameter.numel() for parameter in module.parameters()) == expected
