"""Test a method's look-ahead step: the student at other parameters, itself unchanged."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from methods import AKD, Batch, Method, Output, Task
from methods.capabilities import LooksAhead
from methods.learnable import held_out_slope
from orchestrator.data.passes import Inputs
from orchestrator.models.build import build
from orchestrator.training._distillation_module import DistillationModule

SHAPE, CLASSES, RATE = (1, 8, 8), 10, 0.2
NETWORKS: dict[str, dict[str, Any]] = {"mlp": {"width": 8}, "cnn": {"width": 4}}
every_network = pytest.mark.parametrize("name", NETWORKS)


def build_module(
    name: str, half_type: torch.dtype | None = None, **settings: Any
) -> DistillationModule:
    torch.manual_seed(5)
    student = build(name, CLASSES, SHAPE, NETWORKS[name]).train()
    method: Method = AKD(
        AKD.Settings.build(
            {"alpha_schedule": "learnable", "alpha_learnable": "bilevel", **settings}
        )
    )
    method.prepare(None, Task(CLASSES, 64, 3))
    return DistillationModule(student, method, half_type)


def inputs(size: int, seed: int, dtype: torch.dtype = torch.float32) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randn(size, *SHAPE, generator=generator, dtype=torch.float64).to(dtype)
    return Inputs(
        torch.arange(size), pictures, torch.randint(CLASSES, (size,), generator=generator)
    )


def teacher(size: int, dtype: torch.dtype = torch.float32) -> Output:
    logits = 2 * torch.randn(
        size, CLASSES, generator=torch.Generator().manual_seed(9), dtype=torch.float64
    ).to(dtype)
    return Output(logits, logits)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


@every_network
@pytest.mark.parametrize("half_type", [None, torch.bfloat16])
def test_look_ahead_changes_nothing(name: str, half_type: torch.dtype | None) -> None:
    made = build_module(name, half_type)
    made(inputs(6, 0), teacher(6))[0].backward()
    before = state(made.student)
    slopes = [None if one.grad is None else one.grad.clone() for one in made.student.parameters()]
    addresses = [one.data_ptr() for one in made.student.parameters()]
    assert isinstance(made.method, LooksAhead)
    made.method.look_ahead(made.build_look_ahead(inputs(6, 0), teacher(6), inputs(5, 1), RATE))
    assert float(made.method.alpha.slope) != 0, "the look-ahead has set the slope"  # type: ignore[arg-type, union-attr]
    assert all(torch.equal(value, before[key]) for key, value in made.student.state_dict().items())
    assert [one.data_ptr() for one in made.student.parameters()] == addresses
    for parameter, slope in zip(made.student.parameters(), slopes, strict=True):
        assert parameter.requires_grad and parameter.grad is not None and slope is not None
        assert torch.equal(parameter.grad, slope)


@every_network
def test_own_parameters_give_the_same_outputs(name: str) -> None:
    made, batch = build_module(name), inputs(6, 0)
    ahead = made.build_look_ahead(batch, teacher(6), inputs(5, 1), RATE)
    plain = made.build_batch(batch, teacher(6))
    batch_seen = ahead.training(ahead.parameters)
    torch.testing.assert_close(batch_seen.student.logits, plain.student.logits, rtol=0, atol=0)
    assert (
        torch.equal(batch_seen.labels, batch.labels)
        and batch_seen.teacher is not None
        and ahead.learning_rate == RATE
    )
    moved = {key: value + 0.1 for key, value in ahead.parameters.items()}
    assert not torch.allclose(ahead.training(moved).student.logits, plain.student.logits)


@every_network
def test_held_out_batch_has_labels_and_no_teacher(name: str) -> None:
    made, apart = build_module(name), inputs(5, 1)
    ahead = made.build_look_ahead(inputs(6, 0), teacher(6), apart, RATE)
    batch_seen = ahead.held_out(ahead.parameters)
    assert (
        isinstance(batch_seen, Batch)
        and batch_seen.teacher is None
        and torch.equal(batch_seen.labels, apart.labels)
    )
    assert batch_seen.student.logits.shape == (5, CLASSES)


@every_network
@pytest.mark.parametrize("alpha", [0.2, 0.8])
def test_slope_equals_finite_differences_over_real_steps(name: str, alpha: float) -> None:
    """A copy of the student takes an optimizer step, with slightly more and with less alpha."""
    made = build_module(name).double()
    batch, apart, teacher_output = (
        inputs(12, 0, torch.float64),
        inputs(9, 1, torch.float64),
        teacher(12, torch.float64),
    )

    def after(weight: float) -> float:
        student = copy.deepcopy(made.student)
        optimizer = torch.optim.SGD(student.parameters(), lr=RATE)
        logits = student(batch.inputs).logits
        log_q, log_p = ((one / 4).log_softmax(1) for one in (logits, teacher_output.logits))
        soft = 16 * functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        torch.autograd.backward(
            (1 - weight) * functional.cross_entropy(logits, batch.labels) + weight * soft
        )
        optimizer.step()
        return functional.cross_entropy(student(apart.inputs).logits, apart.labels).item()

    ahead = made.build_look_ahead(batch, teacher_output, apart, RATE)
    found = held_out_slope(
        ahead,
        made.method._terms,  # type: ignore[operator, arg-type]
        torch.tensor(alpha, dtype=torch.float64),
        lambda value: value,
    )
    expected = (after(alpha + 1e-5) - after(alpha - 1e-5)) / 2e-5
    # the difference is small, so that no maximum or rectifier switches within it
    assert abs(expected) > 1e-5 and found.item() == pytest.approx(expected, rel=1e-4)


def test_look_ahead_uses_the_random_numbers_of_the_epoch() -> None:
    """The look-ahead uses the epoch's random numbers, so that a resumed one uses the same."""
    torch.manual_seed(5)
    made = build_module("mlp")
    made.student = build("mlp", CLASSES, SHAPE, {"width": 8, "dropout": 0.5}).train()
    batch, apart = inputs(12, 0), inputs(9, 1)
    ahead, found = made.build_look_ahead(batch, teacher(12), apart, RATE), list[Tensor]()
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(ahead.training(ahead.parameters).student.logits.detach())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
