"""Whether a checkpoint that can be read is one of the training that is to go on with it: asked before anything is restored."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from orchestrator.config import Training

State = Mapping[str, Tensor]


def find_misfit(what: str, expected: State, given: State) -> str:
    """Return the first tensor that is missing, of another shape or type, or not expected, in words; "" where all fit."""
    for name, tensor in expected.items():
        if name not in given:
            return f"{name} of the {what} is missing"
        if given[name].shape != tensor.shape:
            return f"{name} of the {what} has shape {list(given[name].shape)}, and {list(tensor.shape)} is expected"
        if given[name].dtype != tensor.dtype:
            return f"{name} of the {what} is {given[name].dtype}, and {tensor.dtype} is expected"
    other = next((name for name in given if name not in expected), None)
    return f"{other} is no tensor of the {what}" if other is not None else ""


def find_optimizer_misfit(recipe: Training, fresh: torch.optim.Optimizer, given: Any) -> str:
    """Return why a saved state is none of the optimiser, after an epoch at least; "" where it is."""
    saved = given.get("optimizer") if isinstance(given, dict) else None
    if not isinstance(saved, dict) or not isinstance(given.get("scaler"), dict):
        return "the optimiser has no state"
    groups, moments = saved.get("param_groups"), saved.get("state")
    wanted = [group["params"] for group in fresh.param_groups]
    if not isinstance(groups, list) or not isinstance(moments, dict) or not all(map(_is_group, groups)):
        return "the optimiser's state has no groups of parameters"
    if [len(group["params"]) for group in groups] != [len(group) for group in wanted]:
        return "the optimiser's groups of parameters are others"
    if not moments and (recipe.optimizer == "adamw" or recipe.momentum):
        return "the optimiser's state is empty, and the recipe keeps moments"
    numbers = (number for group in groups for number in group["params"])
    numbered = dict(zip(numbers, (parameter for group in wanted for parameter in group), strict=True))
    for number, kept in moments.items():
        if number not in numbered or not isinstance(kept, dict):
            return f"the optimiser's state is of a parameter {number!r} that there is not"
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != numbered[number].shape:
                return f"{name} of the optimiser has shape {list(value.shape)}, and {list(numbered[number].shape)} is expected"
            if isinstance(value, Tensor) and not bool(torch.isfinite(value).all()):
                return f"{name} of the optimiser is not finite"
    return ""


def _is_group(group: Any) -> bool:
    return (
        isinstance(group, dict) and isinstance(group.get("params"), list) and all(type(number) is int for number in group["params"])
    )
