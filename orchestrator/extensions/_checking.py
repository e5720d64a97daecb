"""Basics of the conformance checks: a failed check, and checks of settings."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from methods import Settings, SettingsError, allowed_values, list_choices

SHORTEST_DESCRIPTION = 10  # characters
Checks = Mapping[str, Callable[[], None]]  # the checks of one object, by their names


class CheckError(AssertionError):
    """A check has failed; the message is a clause with the reason."""


def require(condition: bool, problem: str) -> None:
    """Raise CheckError with the problem unless the condition holds."""
    if not condition:
        raise CheckError(problem)


def values_outside(field: FieldInfo) -> list[Any]:
    """Return values that a setting must refuse."""
    if list_choices(field):
        return ["no such choice", 0, None]
    if field.annotation is bool:
        return [1, 0.5, "true", None]
    if field.annotation is str:
        return [1, True, None, "\n", "x" * 201]
    kind: Any = field.annotation
    bounds: Any = allowed_values(field)
    low, high = map(kind, bounds)
    beyond = [low - 1, low - 1e-6, high + 1, high + 1e-6]
    return [float("nan"), float("inf"), True, "1", None, *beyond]


def list_options(settings: type[Settings]) -> list[dict[str, Any]]:
    """Return every choice and every switch of the settings, one at a time."""
    return [
        {name: value}
        for name, field in settings.model_fields.items()
        for value in ((False, True) if field.annotation is bool else list_choices(field))
    ]


def check_settings(settings: type[Settings]) -> None:
    """Check that settings are documented, and refuse unknown names and values out of range.

    Raises:
        CheckError: A setting has no description, or accepts a value outside of its range.
    """
    require(settings.build({}) == settings(), "its default settings cannot be built")
    _require_refusal(settings, "no_such_setting", 1)
    for name, field in settings.model_fields.items():
        require(
            len(field.description or "") > SHORTEST_DESCRIPTION,
            f"the setting {name} has no description: give one with Field(description=...) or in "
            f"the Args of the docstring",
        )
        for value in values_outside(field):
            _require_refusal(settings, name, value)


def _require_refusal(settings: type[Settings], name: str, value: object) -> None:
    try:
        settings.build({name: value})
    except SettingsError as error:
        require(error.field == name, f"the refusal of {name} = {value!r} names {error.field}")
        return
    raise CheckError(f"the setting {name} accepts {value!r}")
