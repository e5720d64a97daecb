"""Settings of methods and networks: documented, with defaults and bounds, and validated."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

SMALLEST, LARGEST = 1e-9, 1_000_000  # default bounds of numbers in `setting`
LONGEST_TEXT = 200


class SettingsError(ValueError):
    """A method received a setting that does not exist or lies outside its allowed values.

    Attributes:
        field: Name of the setting, None if several settings conflict.
        unknown: True if the setting does not exist.
        value: The given value.
        allowed: The allowed values: names, a pair of bounds, a type or a short text.
    """

    def __init__(
        self,
        message: str,
        field: str | None = None,
        unknown: bool = False,
        *,
        value: object = None,
        allowed: object = None,
    ) -> None:
        super().__init__(message)
        self.field = field
        self.unknown = unknown
        self.value = value
        self.allowed = allowed


def setting(
    default: Any,
    doc: str,
    *,
    above: float | None = None,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """Declare a documented hyper-parameter: true or false, a whole number, a number, or a text.

    Args:
        default: Default value, which determines the type.
        doc: Description.
        above: Exclusive lower bound of a number; 0 means at least 1e-9, which float32 distinguishes
            from 0.
        low: Lower bound of a number; -1,000,000 without `above` and `low`.
        high: Upper bound of a number; 1,000,000 by default.
        choices: Allowed texts; without them any text of at most 200 printable characters.

    Raises:
        TypeError: The default is of another type.
    """
    if not isinstance(default, bool | int | float | str):
        raise TypeError(
            f"the default of a setting is true or false, a number or a text, not {default!r}"
        )
    if isinstance(default, int | float) and not isinstance(default, bool):
        if above == 0 and isinstance(default, float):
            above, low = None, SMALLEST
        if above is None and low is None:
            low = -LARGEST
        high = LARGEST if high is None else high
    return field(
        default=default,
        metadata={"doc": doc, "above": above, "low": low, "high": high, "choices": choices},
    )


def temperature_setting(default: float, doc: str) -> Any:
    """Declare a divisor of logits or similarities, bounded to [1e-3, 1e4].

    Beyond these bounds float32 cannot distinguish classes, or overflows.
    """
    return setting(default, doc, low=1e-3, high=1e4)


def override_default(settings: type["Settings"], name: str, default: Any) -> Any:
    """Declare the setting `name` of another class with a new default.

    Documentation and limits stay the same.
    """
    return field(default=default, metadata=settings.__dataclass_fields__[name].metadata)


def override_doc(settings: type["Settings"], name: str, doc: str) -> Any:
    """Declare the setting `name` of another class with a new description.

    Default and limits stay the same.
    """
    declared = settings.__dataclass_fields__[name]
    return field(default=declared.default, metadata={**declared.metadata, "doc": doc})


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of a method.

    Subclasses are frozen dataclasses whose fields are declared by `setting`.
    """

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            accepted = describe_allowed(item)
            if not _is_allowed(item, value):
                message = (
                    f"{item.name} = {_truncate(value)} is not allowed: give {accepted} (default: "
                    f"{item.default!r})"
                )
                raise SettingsError(message, item.name, value=value, allowed=allowed_values(item))

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> Self:
        """Build settings from plain values.

        Raises:
            SettingsError: A key is unknown, or a value is outside its range; the message names it.
        """
        fields_by_name = {item.name: item for item in dataclasses.fields(cls)}
        for key in values:
            if key not in fields_by_name:
                names = ", ".join(fields_by_name)
                hint = f"the settings are {names}" if names else "leave it out, as there are none"
                message = f"there is no setting {key!r}: {hint}"
                raise SettingsError(
                    message, key, unknown=True, value=values[key], allowed=tuple(fields_by_name)
                )
        return cls(**{key: _coerce(fields_by_name[key], value) for key, value in values.items()})


def describe_allowed(item: "dataclasses.Field[Any]") -> str:
    """Describe the values that a setting accepts.

    Examples are `a number in [0.001, 10000]`, `one of convex, additive`, `true or false`.
    """
    meta = item.metadata
    if meta["choices"]:
        return f"one of {', '.join(meta['choices'])}"
    if isinstance(item.default, bool):
        return "true or false"
    if isinstance(item.default, str):
        return f"a text of at most {LONGEST_TEXT} printable characters"
    kind = "a whole number" if isinstance(item.default, int) else "a number"
    left = (
        f"({_format_bound(meta['above'])}"
        if meta["above"] is not None
        else f"[{_format_bound(meta['low'])}"
    )
    return f"{kind} in {left}, {_format_bound(meta['high'])}]"


def allowed_values(item: "dataclasses.Field[Any]") -> tuple[Any, ...] | type:
    """Return the accepted values of a setting: its choices, its bounds (low, high), or its type."""
    meta = item.metadata
    if meta["choices"]:
        return tuple(meta["choices"])
    if isinstance(item.default, bool | str):
        return type(item.default)
    return (meta["low"] if meta["above"] is None else meta["above"], meta["high"])


def format_default(item: "dataclasses.Field[Any]") -> str:
    """Return a setting's default for a list of settings; a free text is in quotation marks."""
    return (
        repr(item.default)
        if isinstance(item.default, str) and not item.metadata["choices"]
        else str(item.default)
    )


def _format_bound(bound: float) -> str:
    """Format a bound for people: 1000000, and 1e-09."""
    return str(int(bound)) if bound == int(bound) and abs(bound) < 1e12 else f"{bound:g}"


def _truncate(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


def _coerce(item: "dataclasses.Field[Any]", value: Any) -> Any:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return (
        float(value)
        if isinstance(item.default, float) and is_whole and _is_within_bounds(item, value)
        else value
    )


def _is_allowed(item: "dataclasses.Field[Any]", value: Any) -> bool:
    if isinstance(item.default, bool) or isinstance(value, bool):
        return isinstance(item.default, bool) and isinstance(value, bool)
    kind: Any = type(item.default)
    if not isinstance(value, kind):
        return False
    if item.metadata["choices"] is not None:
        return value in item.metadata["choices"]
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT and value.isprintable()
    return _is_within_bounds(item, value)


def _is_within_bounds(item: "dataclasses.Field[Any]", value: Any) -> bool:
    """Return whether a number is within the bounds of a setting; NaN is not."""
    above, low = item.metadata["above"], item.metadata["low"]
    return bool(
        (value > above if above is not None else value >= low) and value <= item.metadata["high"]
    )
