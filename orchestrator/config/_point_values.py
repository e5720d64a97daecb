"""Follow the values of an initial point through a search space."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.config.search_schema import is_number, is_on_grid


class OutsideSpaceError(Exception):
    """A point has a value that the search space does not contain.

    Attributes:
        name: The name of the parameter in the study.
        allowed: The choices, or the pair of bounds.
        requirement: The allowed values in words.
    """

    def __init__(self, name: str, allowed: object, requirement: str) -> None:
        super().__init__(name)
        self.name, self.allowed, self.requirement = name, allowed, requirement


class PointValues:
    """Trial with the values of a point.

    Args:
        values: The values of the point, by names in the study.
        default: Function of a name in the study that returns the value of a parameter that the
            point leaves out. The nearest value of the space is taken. It may raise KeyError.
        strict: Whether each value of the point must be in the space; else OutsideSpaceError.
    """

    def __init__(
        self, values: Mapping[str, Any], default: Callable[[str], Any], strict: bool
    ) -> None:
        self.values, self.default, self.strict = values, default, strict

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        """Return the number of the point, or the default within [low, high]."""
        return float(self._number(name, low, high, step))

    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int:
        """Return the whole number of the point, or the default within [low, high]."""
        return int(self._number(name, low, high, step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return the choice of the point, or the default if it is a choice, or the first one."""
        if name not in self.values:
            default = self.default(name)
            return default if _is_among(default, choices) else choices[0]
        if self.strict and not _is_among(self.values[name], choices):
            raise OutsideSpaceError(name, tuple(choices), f"one of {', '.join(map(str, choices))}")
        return self.values[name]

    def _number(self, name: str, low: float, high: float, step: float | None) -> Any:
        if name not in self.values:
            default = self.default(name)
            value = min(max(default, low), high) if is_number(default) else low
            return value if step is None else low + (value - low) // step * step
        value = self.values[name]
        is_inside = is_number(value) and low <= value <= high
        if self.strict and not (is_inside and (step is None or is_on_grid(value, low, step))):
            raise OutsideSpaceError(
                name,
                (low, high),
                f"a number in [{low:g}, {high:g}]" + (f", step {step:g}" if step else ""),
            )
        return value


def _is_among(value: Any, choices: Sequence[Any]) -> bool:
    return any(
        value == choice and isinstance(value, bool) == isinstance(choice, bool)
        for choice in choices
    )
