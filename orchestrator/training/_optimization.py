"""Build the optimizer of a recipe, and compute its learning rate.

The rate is a function of the progress alone, so it needs no state.
"""

import inspect
import math
from typing import Any, TypeVar, cast

import torch
from torch import nn

from methods import ParameterGroup
from orchestrator.config.schema import Training

_Optimizer = TypeVar("_Optimizer", bound=torch.optim.Optimizer)


def build_optimizer(
    recipe: Training, student: nn.Module, method_groups: list[ParameterGroup]
) -> torch.optim.Optimizer:
    """Return SGD or AdamW over the student, then over the groups of the method's own parameters.

    The method's groups have no weight decay, unless they declare the recipe's.
    """
    groups: list[dict[str, Any]] = [{"params": list(student.parameters())}]
    groups += [
        {"params": group.parameters, "weight_decay": recipe.weight_decay if group.decayed else 0.0}
        for group in method_groups
    ]
    # one kernel per group, which also serves the gradient scaler without waiting for the device
    common: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "weight_decay": recipe.weight_decay,
        "fused": True,
    }
    if recipe.optimizer == "adamw":
        return AdamW(groups, **common)
    return SGD(groups, momentum=recipe.momentum, nesterov=recipe.nesterov, **common)


def _without_compiler(kind: type[_Optimizer]) -> type[_Optimizer]:
    """Return an optimizer class without the wrappers of its methods for torch's compiler.

    The wrappers import the compiler, which takes a second of CPU time and 150 MiB in each process,
    and cost more in a step than the kernel of a small network.
    """
    names = ("add_param_group", "state_dict", "load_state_dict")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    update: Any = inspect.unwrap(kind.step)

    def step(self: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            update(self)

    step.hooked = True  # type: ignore[attr-defined]  # no wrapper for the profiler either
    unwrapped: Any = type(kind.__name__, (kind,), {**methods, "step": step})
    return cast(type[_Optimizer], unwrapped)


SGD = _without_compiler(torch.optim.SGD)
AdamW = _without_compiler(torch.optim.AdamW)


def clear_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Remove the gradients of all parameters, as `zero_grad` does."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


def set_learning_rates(
    optimizer: torch.optim.Optimizer,
    recipe: Training,
    method_groups: list[ParameterGroup],
    rate: float,
) -> None:
    """Set the student's learning rate to `rate`, and the method's groups to their own rates."""
    optimizer.param_groups[0]["lr"] = rate
    for group, group_settings in zip(optimizer.param_groups[1:], method_groups, strict=True):
        if group_settings.learning_rate is None:
            group["lr"] = rate
        else:
            group["lr"] = group_settings.learning_rate * (
                rate / recipe.learning_rate if group_settings.scheduled else 1.0
            )


def learning_rate(recipe: Training, progress: float) -> float:
    """Return the learning rate after `progress` epochs (fractions count).

    Linear warm-up, then constant, cosine to 0, or steps.
    """
    if progress < recipe.warmup_epochs:
        return recipe.learning_rate * (progress + 1e-3) / (recipe.warmup_epochs + 1e-3)
    if recipe.schedule == "cosine":
        share = (progress - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
        return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
    if recipe.schedule == "multi_step":
        return recipe.learning_rate * recipe.gamma ** sum(
            progress >= milestone for milestone in recipe.milestones
        )
    return recipe.learning_rate


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the moments of a saved state, with the settings of the fresh optimizer.

    A resumed trial may have other settings.
    """
    settings = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    optimizer.load_state_dict(state)
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        group.update(values)
