"""Test the learning rate in closed form, and the parameters with weight decay."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from methods import ParameterGroup
from orchestrator.config.schema import Training
from orchestrator.training._optimization import (
    build_optimizer,
    clear_gradients,
    learning_rate,
    restore_optimizer,
)


def recipe(**values: Any) -> Training:
    return Training.model_validate({"epochs": 10, "learning_rate": 0.4} | values)


@pytest.mark.parametrize("progress", [0.0, 0.5, 3.0, 9.99])
def test_constant_stays(progress: float) -> None:
    assert learning_rate(recipe(schedule="constant"), progress) == 0.4


@pytest.mark.parametrize(
    ("progress", "share"),
    [
        (0.0, 1.0),
        (2.5, (1 + math.sqrt(0.5)) / 2),
        (5.0, 0.5),
        (7.5, (1 - math.sqrt(0.5)) / 2),
        (10.0, 0.0),
    ],
)
def test_cosine_falls_from_the_rate_to_zero(progress: float, share: float) -> None:
    assert learning_rate(recipe(schedule="cosine"), progress) == pytest.approx(
        0.4 * share, abs=1e-12
    )


@pytest.mark.parametrize(
    ("progress", "passed"), [(0.0, 0), (2.999, 0), (3.0, 1), (5.5, 1), (6.0, 2), (9.0, 2)]
)
def test_multi_step_multiplies_by_gamma_at_each_milestone(progress: float, passed: int) -> None:
    chosen = recipe(schedule="multi_step", milestones=[3, 6], gamma=0.2)
    assert learning_rate(chosen, progress) == pytest.approx(0.4 * 0.2**passed)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warm_up_is_linear_from_above_zero_and_meets_the_schedule(schedule: str) -> None:
    chosen = recipe(schedule=schedule, warmup_epochs=2)
    rates = [learning_rate(chosen, step / 4) for step in range(9)]
    assert 0 < rates[0] < 0.4 / 1000
    assert rates[:8] == pytest.approx([0.4 * (step / 4 + 1e-3) / (2 + 1e-3) for step in range(8)])
    assert rates[8] == pytest.approx(0.4)


def test_cosine_after_a_warm_up_takes_what_is_left_of_the_epochs() -> None:
    chosen = recipe(schedule="cosine", warmup_epochs=2)
    assert learning_rate(chosen, 6.0) == pytest.approx(0.2)
    assert learning_rate(chosen, 10.0) == pytest.approx(0.0, abs=1e-12)


def test_cosine_never_rises_again_after_the_last_epoch() -> None:
    assert learning_rate(recipe(schedule="cosine"), 11.0) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_weight_decay_shrinks_the_student_and_leaves_the_method(name: str) -> None:
    student, method = nn.Linear(3, 2), nn.Linear(2, 2)
    before = [
        parameter.detach().clone() for parameter in (*student.parameters(), *method.parameters())
    ]
    optimizer = build_optimizer(
        recipe(optimizer=name, weight_decay=0.5),
        student,
        [ParameterGroup(list(method.parameters()))],
    )
    for parameter in (*student.parameters(), *method.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before[:2], student.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old * (1 - 0.4 * 0.5))
    for old, new in zip(before[2:], method.parameters(), strict=True):
        assert torch.equal(new, old)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_has_the_momentum_of_the_recipe(nesterov: bool) -> None:
    student = nn.Linear(1, 1, bias=False)
    start = student.weight.item()
    optimizer = build_optimizer(
        recipe(momentum=0.5, nesterov=nesterov, weight_decay=0), student, []
    )
    for _ in range(2):
        student.weight.grad = torch.ones_like(student.weight)
        optimizer.step()
    moved = (1 + 0.5) + (1 + 0.5 * 1.5) if nesterov else 1 + 1.5  # velocity 1, then 0.5 * 1 + 1
    assert student.weight.item() == pytest.approx(start - 0.4 * moved, abs=1e-6)


def test_adamw_moves_each_weight_by_the_rate_at_first() -> None:
    student = nn.Linear(4, 1, bias=False)
    start = student.weight.detach().clone()
    optimizer = build_optimizer(recipe(optimizer="adamw", weight_decay=0), student, [])
    student.weight.grad = torch.tensor([[1.0, -20.0, 0.3, -5.0]])
    optimizer.step()
    torch.testing.assert_close(
        student.weight.detach(), start - 0.4 * torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    )


@pytest.mark.parametrize("decayed", [False, True])
def test_method_has_the_weight_decay_of_the_recipe_if_it_declares_so(decayed: bool) -> None:
    own = nn.Linear(1, 1, bias=False)
    start = own.weight.item()
    group = ParameterGroup(list(own.parameters()), decayed=decayed)
    optimizer = build_optimizer(recipe(weight_decay=0.5, momentum=0), nn.Linear(1, 1), [group])
    own.weight.grad = torch.zeros_like(own.weight)
    optimizer.step()
    assert own.weight.item() == pytest.approx(start * (1 - 0.4 * 0.5 * decayed), abs=1e-6)


RECIPES: list[dict[str, Any]] = [
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0},
    {"optimizer": "adamw"},
]


def stepped(network: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    """Train the steps from `first` up to `last`, each on its own batch."""
    for number in range(first, last):
        generator = torch.Generator().manual_seed(number)
        clear_gradients(optimizer)
        network(torch.randn(4, 3, 5, 5, generator=generator)).square().mean().backward()
        optimizer.step()


def convolution() -> nn.Module:
    """Return a network whose weights have the channels-last layout."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("values", RECIPES)
def test_the_fused_optimizer_is_that_of_torch(values: dict[str, Any]) -> None:
    chosen, network, other = recipe(**values, weight_decay=0.1), convolution(), convolution()
    rate: dict[str, Any] = {"lr": chosen.learning_rate, "foreach": False}
    rate["weight_decay"] = chosen.weight_decay
    if chosen.optimizer == "adamw":
        reference: torch.optim.Optimizer = torch.optim.AdamW(other.parameters(), **rate)
    else:
        momentum, nesterov = chosen.momentum, chosen.nesterov
        reference = torch.optim.SGD(
            other.parameters(), momentum=momentum, nesterov=nesterov, **rate
        )
    stepped(network, build_optimizer(chosen, network, []), 0, 5)
    stepped(other, reference, 0, 5)
    for mine, its in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("values", RECIPES)
def test_a_restored_optimizer_continues_to_the_bit(values: dict[str, Any], tmp_path: Path) -> None:
    chosen, whole, broken = recipe(**values), convolution(), convolution()
    stepped(whole, build_optimizer(chosen, whole, []), 0, 6)
    optimizer = build_optimizer(chosen, broken, [])
    stepped(broken, optimizer, 0, 3)
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    fresh = build_optimizer(chosen, broken, [])
    restore_optimizer(fresh, torch.load(tmp_path / "optimizer.pt", weights_only=True))
    stepped(broken, fresh, 3, 6)
    for mine, its in zip(whole.parameters(), broken.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_parameters_without_a_gradient_stay() -> None:
    network = convolution()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    optimizer = build_optimizer(recipe(weight_decay=0.5), network, [])
    next(network.parameters()).grad = torch.ones_like(before[0])
    optimizer.step()
    changed = [
        not torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True)
    ]
    assert changed == [True, False, False, False]
    clear_gradients(optimizer)
    assert all(parameter.grad is None for parameter in network.parameters())
