"""Settings of methods and networks: each documented, with a default and bounds, and refused by name outside of them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

SMALLEST, LARGEST = 1e-9, 1_000_000  # of a number for which `setting` names nothing closer
LONGEST_TEXT = 200


class SettingsError(ValueError):
    """A method was given a setting that does not exist or lies outside what is allowed.

    `field` names the setting (None when several disagree), `value` is what was given, `allowed` what is allowed instead (names,
    a pair of bounds, a type or a short text), and `unknown` says that the setting does not exist.
    """

    def __init__(
        self, message: str, field: str | None = None, unknown: bool = False, *, value: object = None, allowed: object = None
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
        default: Its default, which decides the type.
        doc: What it means.
        above: A number is larger than this; of 0 it is at least 1e-9, which float32 still tells from 0.
        low: A number is at least this; without `above` and `low` at least -1,000,000.
        high: A number is at most this; without it 1,000,000.
        choices: A text is one of these; without them it is any text of at most 200 printable characters.

    Raises:
        TypeError: the default is of another type.
    """
    if not isinstance(default, bool | int | float | str):
        raise TypeError(f"the default of a setting is true or false, a number or a text, not {default!r}")
    if isinstance(default, int | float) and not isinstance(default, bool):
        if above == 0 and isinstance(default, float):
            above, low = None, SMALLEST
        if above is None and low is None:
            low = -LARGEST
        high = LARGEST if high is None else high
    return field(default=default, metadata={"doc": doc, "above": above, "low": low, "high": high, "choices": choices})


def temperature_setting(default: float, doc: str) -> Any:
    """Declare what logits or similarities are divided by: beyond its bounds float32 tells no classes apart, or overflows."""
    return setting(default, doc, low=1e-3, high=1e4)


def another_default(settings: type["Settings"], name: str, default: Any) -> Any:
    """A setting as another class has it, with another default; documentation and limits stay."""
    return field(default=default, metadata=settings.__dataclass_fields__[name].metadata)


def other_words(settings: type["Settings"], name: str, doc: str) -> Any:
    """A setting as another class has it, documented in other words; default and limits stay."""
    known = settings.__dataclass_fields__[name]
    return field(default=known.default, metadata={**known.metadata, "doc": doc})


@dataclass(frozen=True)
class Settings:
    """Hyper-parameters of a method; subclasses are frozen dataclasses whose fields are made by `setting`."""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            wanted = allowed(item)
            if not _fits(item, value):
                message = f"{item.name} = {_cut(value)} is not allowed: give {wanted} (default {item.default!r})"
                raise SettingsError(message, item.name, value=value, allowed=allowed_values(item))

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> Self:
        """Settings from plain values; SettingsError names an unknown key or a value outside its range."""
        known = {item.name: item for item in dataclasses.fields(cls)}
        for key in values:
            if key not in known:
                names = ", ".join(known) or "it has none"
                message = f"there is no setting {key!r} (settings: {names})"
                raise SettingsError(message, key, unknown=True, value=values[key], allowed=tuple(known))
        return cls(**{key: _coerced(known[key], value) for key, value in values.items()})


def allowed(item: "dataclasses.Field[Any]") -> str:
    """What a setting accepts, in words: `a number in [0.001, 10000]`, `one of convex, additive`, `true or false`."""
    meta = item.metadata
    if meta["choices"]:
        return f"one of {', '.join(meta['choices'])}"
    if isinstance(item.default, bool):
        return "true or false"
    if isinstance(item.default, str):
        return f"a text of at most {LONGEST_TEXT} printable characters"
    kind = "a whole number" if isinstance(item.default, int) else "a number"
    left = f"({_plain(meta['above'])}" if meta["above"] is not None else f"[{_plain(meta['low'])}"
    return f"{kind} in {left}, {_plain(meta['high'])}]"


def allowed_values(item: "dataclasses.Field[Any]") -> tuple[Any, ...] | type:
    """Return what a setting accepts: its choices, the smallest and the largest number, or its type."""
    meta = item.metadata
    if meta["choices"]:
        return tuple(meta["choices"])
    if isinstance(item.default, bool | str):
        return type(item.default)
    return (meta["low"] if meta["above"] is None else meta["above"], meta["high"])


def shown_default(item: "dataclasses.Field[Any]") -> str:
    """The default of a setting in a list of settings; a free text stands in quotation marks."""
    return repr(item.default) if isinstance(item.default, str) and not item.metadata["choices"] else str(item.default)


def _plain(bound: float) -> str:
    """A bound as a person writes it: 1000000, and 1e-09."""
    return str(int(bound)) if bound == int(bound) and abs(bound) < 1e12 else f"{bound:g}"


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


def _coerced(item: "dataclasses.Field[Any]", value: Any) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if isinstance(item.default, float) and whole and _within(item, value) else value


def _fits(item: "dataclasses.Field[Any]", value: Any) -> bool:
    if isinstance(item.default, bool) or isinstance(value, bool):
        return isinstance(item.default, bool) and isinstance(value, bool)
    kind: Any = type(item.default)
    if not isinstance(value, kind):
        return False
    if item.metadata["choices"] is not None:
        return value in item.metadata["choices"]
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT and value.isprintable()
    return _within(item, value)


def _within(item: "dataclasses.Field[Any]", value: Any) -> bool:
    """Whether a number is within the bounds of a setting; not a number is not."""
    above, low = item.metadata["above"], item.metadata["low"]
    return bool((value > above if above is not None else value >= low) and value <= item.metadata["high"])
