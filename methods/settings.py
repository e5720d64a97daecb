"""Settings of methods and networks: documented, with defaults and bounds, and validated."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

LARGEST = 1_000_000  # default bound of numbers
LONGEST_TEXT = 200
LIMITS = ("ge", "gt", "le", "lt", "min_length", "max_length")

Positive = Annotated[float, Field(ge=1e-9)]  # which float32 distinguishes from 0
# Divisor of logits or similarities: float32 distinguishes classes and does not overflow
Temperature = Annotated[float, Field(ge=1e-3, le=1e4)]


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


class Settings(BaseModel):
    """Hyper-parameters of a method or a network.

    A subclass declares each as true or false, a whole number, a number, a text, or a `Literal` of
    texts, by `Field` with a default, a `description` and bounds. A number without a bound is at
    least -1,000,000 or at most 1,000,000; a text has at most 200 printable characters.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Check the types of the settings.

        Raises:
            TypeError: A setting has no default, or is of another type.
        """
        for name, field in cls.model_fields.items():
            is_plain = field.annotation in (bool, int, float, str) or list_choices(field)
            if field.is_required() or not is_plain:
                raise TypeError(
                    f"{cls.__name__}.{name} must be true or false, a number or a text, with a "
                    f"default"
                )

    @field_validator("*")
    @classmethod
    def _check_default_limits(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        if field.annotation is str:
            is_allowed = len(value) <= LONGEST_TEXT and value.isprintable()
        elif field.annotation in (int, float):
            low, high = _bounds(read_limits(field.metadata))
            is_allowed = low <= value <= high
        else:
            return value
        if not is_allowed:
            raise ValueError("beyond the default limits")
        return value

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> Self:
        """Build settings from plain values.

        Raises:
            SettingsError: A key is unknown, or a value is outside its range; the message names it.
        """
        known = cls.model_fields
        for key in values:
            if key not in known:
                names = ", ".join(known)
                hint = f"the settings are {names}" if names else "leave it out, as there are none"
                message = f"there is no setting {key!r}: {hint}"
                raise SettingsError(
                    message, key, unknown=True, value=values[key], allowed=tuple(known)
                )
        try:
            return cls(**values)
        except ValidationError as error:
            raise cls._refusal(error, values) from None

    def replace(self, **changes: Any) -> Self:
        """Return these settings with other values for some.

        Raises:
            SettingsError: A key is unknown, or a value is not allowed.
        """
        return self.build(self.model_dump() | changes)

    @classmethod
    def _refusal(cls, error: ValidationError, values: Mapping[str, Any]) -> SettingsError:
        """Convert the first error of a validation."""
        first = error.errors(include_url=False)[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, SettingsError):
            return cause
        if not first["loc"]:
            return SettingsError(first["msg"])
        name = str(first["loc"][0])
        field = cls.model_fields[name]
        value = values.get(name, field.default)
        message = (
            f"{name} = {_truncate(value)} is not allowed: give {describe_allowed(field)} "
            f"(default: {field.default!r})"
        )
        return SettingsError(message, name, value=value, allowed=allowed_values(field))


def override(settings: type[Settings], name: str, **changes: Any) -> Any:
    """Declare the setting `name` of a base class with another `default` or `description`.

    The rest, and the bounds, stay the same.
    """
    field = settings.model_fields[name]
    return Field(**field.asdict()["attributes"] | read_limits(field.metadata) | changes)


def read_limits(metadata: Iterable[Any]) -> dict[str, Any]:
    """Return the bounds and lengths in the metadata of a field by the names that `Field` uses."""
    return {
        name: getattr(item, name) for item in metadata for name in LIMITS if hasattr(item, name)
    }


def list_choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the texts among which a setting chooses; empty for any other setting."""
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def allowed_values(field: FieldInfo) -> tuple[Any, ...] | type:
    """Return the accepted values of a setting: its choices, its bounds (low, high), or its type."""
    if field.annotation in (bool, str):
        return field.annotation
    return list_choices(field) or _bounds(read_limits(field.metadata))


def is_allowed(field: FieldInfo, value: object) -> bool:
    """Return whether a setting accepts a value; a whole number may be a float such as 2.0."""
    if field.annotation in (bool, str):
        return type(value) is field.annotation
    if choices := list_choices(field):
        return value in choices
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    limits = read_limits(field.metadata)
    low, high = _bounds(limits)
    above = value > low if "gt" in limits else value >= low
    below = value < high if "lt" in limits else value <= high
    return above and below and (field.annotation is float or value == int(value))


def describe_allowed(field: FieldInfo) -> str:
    """Describe the values that a setting accepts.

    Examples are `a number in [0.001, 10000]`, `one of convex, additive`, `true or false`.
    """
    if choices := list_choices(field):
        return f"one of {', '.join(choices)}"
    if field.annotation is bool:
        return "true or false"
    if field.annotation is str:
        return f"a text of at most {LONGEST_TEXT} printable characters"
    kind = "a whole number" if field.annotation is int else "a number"
    limits = read_limits(field.metadata)
    low, high = map(format_bound, _bounds(limits))
    left, right = "(" if "gt" in limits else "[", ")" if "lt" in limits else "]"
    return f"{kind} in {left}{low}, {high}{right}"


def format_default(field: FieldInfo) -> str:
    """Return a setting's default for a list of settings; a free text is in quotation marks."""
    return repr(field.default) if field.annotation is str else str(field.default)


def format_bound(bound: float) -> str:
    """Format a bound for people: 1000000, and 1e-09."""
    return str(int(bound)) if bound == int(bound) and abs(bound) < 1e12 else f"{bound:g}"


def _bounds(limits: Mapping[str, Any]) -> tuple[float, float]:
    """Return the lower and upper bound of a number."""
    low = limits.get("ge", limits.get("gt", -LARGEST))
    return low, limits.get("le", limits.get("lt", LARGEST))


def _truncate(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."
