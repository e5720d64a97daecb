"""Check that a readable checkpoint fits the training before anything is restored from it."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.config.schema import Training
from orchestrator.core.text import shorten
from orchestrator.training._optimization import build_optimizer

State = Mapping[str, Tensor]


def find_misfit(subject: str, expected: State, actual: State) -> str:
    """Return the first tensor that does not fit, as text; "" if all fit.

    A tensor does not fit if it is missing, not expected, or has another shape or type.
    """
    for name, tensor in expected.items():
        if name not in actual:
            return f"{name} of the {subject} is missing"
        if actual[name].shape != tensor.shape:
            return (
                f"{name} of the {subject} has shape {list(actual[name].shape)}, "
                f"expected {list(tensor.shape)}"
            )
        if actual[name].dtype != tensor.dtype:
            return (
                f"{name} of the {subject} has dtype {actual[name].dtype}, expected {tensor.dtype}"
            )
    unexpected = next((name for name in actual if name not in expected), None)
    return f"{unexpected} is not a tensor of the {subject}" if unexpected is not None else ""


def find_optimizer_misfit(recipe: Training, optimizer: torch.optim.Optimizer, actual: Any) -> str:
    """Return why a saved state does not fit the optimizer; "" if it fits.

    The state was saved after at least one epoch.
    """
    saved = actual.get("optimizer") if isinstance(actual, dict) else None
    if not isinstance(saved, dict) or not isinstance(actual.get("scaler"), dict):
        return "the state of the optimizer is missing"
    groups, moments = saved.get("param_groups"), saved.get("state")
    if (
        not isinstance(groups, list)
        or not isinstance(moments, dict)
        or not all(isinstance(group, dict) for group in groups)
    ):
        return "the state of the optimizer has no parameter groups"
    expected = optimizer.state_dict()["param_groups"]
    if [group.get("params") for group in groups] != [group["params"] for group in expected]:
        return "the parameter groups of the optimizer do not match those of the trial"
    expected_moments = _compute_moments_after_one_step(recipe)
    if expected_moments and not moments:
        return "the state of the optimizer is empty, but the recipe's optimizer keeps moments"
    if (count := actual.get("count", len(moments))) != len(moments):
        return f"the optimizer has the state of {len(moments)} parameters, but {count} were saved"
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    misfits = chain(
        (
            _find_setting_misfit(settings, group)
            for settings, group in zip(expected, groups, strict=True)
        ),
        (
            _find_moment_misfit(number, parameters, expected_moments, moments[number])
            for number in moments
        ),
    )
    return next(filter(None, misfits), "")


def find_scaler_misfit(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> str:
    """Return why a saved state does not fit the gradient scaler; "" if it fits.

    The scaler's own state is empty if it is not in use.
    """
    for name in expected:
        if (
            not _is_number(actual.get(name))
            or actual[name] < 0
            or (actual[name] == 0 and expected[name] != 0)
        ):
            return f"{name} of the gradient scaler is missing or not an allowed number"
    return ""


def _compute_moments_after_one_step(recipe: Training) -> dict[str, Tensor]:
    """Return the state that the recipe's optimizer keeps of a parameter after one step."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = build_optimizer(recipe, nn.ParameterList([parameter]), [])
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        name: value
        for name, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def _find_setting_misfit(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> str:
    if names := sorted(map(str, expected.keys() ^ actual.keys())):
        return (
            f"{names[0]} of a parameter group of the optimizer is "
            f"{'missing' if names[0] in expected else 'not expected'}"
        )
    for name, value in expected.items():
        if name != "params" and not _has_same_type(value, actual[name]):
            return (
                f"{name} of a parameter group of the optimizer is "
                f"{shorten(repr(actual[name]))}, expected a value like {value}"
            )
    return ""


def _find_moment_misfit(
    number: Any, parameters: Sequence[Tensor], expected: State, actual: Any
) -> str:
    if type(number) is not int or not 0 <= number < len(parameters) or not isinstance(actual, dict):
        return f"the optimizer has the state of an unknown parameter {shorten(repr(number))}"
    values = {name: value for name, value in actual.items() if value is not None}
    if missing := next((name for name in expected if name not in values), None):
        return f"{missing} of the optimizer is missing for parameter {number}"
    for name, value in values.items():
        if not isinstance(value, Tensor):
            return f"{shorten(str(name))} of the optimizer is not a tensor"
        if name not in expected or expected[name].dim():
            shape = parameters[number].shape
        else:
            shape = torch.Size()
        if value.shape != shape:
            return f"{name} of the optimizer has shape {list(value.shape)}, expected {list(shape)}"
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            return f"{name} of the optimizer is not finite or not of a floating-point dtype"
        if not shape and name in expected and not expected[name].dim() and value <= 0:
            return f"{name} of the optimizer is {value.item():g}, expected a number of steps"
    return ""


def _has_same_type(expected: Any, actual: Any) -> bool:
    """Return whether a setting has the type of the expected one.

    Numbers must be finite, and a switch may be unset.
    """
    if isinstance(expected, tuple):
        return (
            isinstance(actual, tuple | list)
            and len(actual) == len(expected)
            and all(map(_is_number, actual))
        )
    return (
        isinstance(actual, bool | None) if isinstance(expected, bool | None) else _is_number(actual)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
