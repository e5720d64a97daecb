"""Define the types of configuration fields with their bounds, and the base class of sections."""

from collections.abc import Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from orchestrator.config.renamed import refuse_renamed
from orchestrator.core.errors import FieldError
from orchestrator.core.paths import path_problem
from orchestrator.core.text import control_character

LONGEST_TEXT = 5000  # characters; more than the longest path
LONGEST_LIST = 1000
MOST_TRIALS = 100_000
SMALLEST_PART = 0.001  # of a CPU or a GPU; Ray counts in parts of 1/10,000


def _check_path(path: Any) -> Any:
    if isinstance(path, str | Path) and (problem := path_problem(str(path))):
        raise PydanticCustomError(
            "path", "the path {problem}; give another path", {"problem": problem}
        )
    return path


def _check_fraction(value: float) -> float:
    if 0 < value < SMALLEST_PART:
        raise PydanticCustomError("part", "give 0, or at least {least}", {"least": SMALLEST_PART})
    return value


def _check_class(entry: Any) -> Any:
    is_position = isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0
    if not (is_position or isinstance(entry, str)):
        raise PydanticCustomError("class", "give a position of at least 0, or a name")
    return entry


GivenPath = Annotated[Path, BeforeValidator(_check_path)]
PathText = Annotated[str, BeforeValidator(_check_path)]
Share = Annotated[float, Field(ge=0, lt=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Samples = Annotated[int, Field(ge=1, le=1_000_000_000, json_schema_extra={"unit": "samples"})]
Labelled = Annotated[int, Field(ge=0, le=1_000_000_000, json_schema_extra={"unit": "samples"})]
Epochs = Annotated[int, Field(ge=1, le=100_000, json_schema_extra={"unit": "epochs"})]
WarmupEpochs = Annotated[float, Field(ge=0, le=100_000, json_schema_extra={"unit": "epochs"})]
BatchSize = Annotated[int, Field(ge=1, le=1_000_000, json_schema_extra={"unit": "samples"})]
Trials = Annotated[int, Field(ge=1, le=MOST_TRIALS, json_schema_extra={"unit": "trials"})]
LearningRate = Annotated[float, Field(gt=0, le=1e30)]  # such a rate diverges but fits into float32
WeightDecay = Annotated[float, Field(ge=0, le=1000)]
Norm = Annotated[float, Field(gt=0, le=1e9)]
Gamma = Annotated[float, Field(gt=0, le=1)]
Workers = Annotated[int, Field(ge=1, le=1024, json_schema_extra={"unit": "workers"})]
Threads = Annotated[int, Field(ge=1, le=1024, json_schema_extra={"unit": "threads"})]
Cpus = Annotated[float, Field(ge=SMALLEST_PART, le=4096, json_schema_extra={"unit": "cores"})]
Gpus = Annotated[
    float, Field(ge=0, le=1024, json_schema_extra={"unit": "GPUs"}), AfterValidator(_check_fraction)
]
Gib = Annotated[float, Field(gt=0, le=1_048_576, json_schema_extra={"unit": "GiB"})]
Names = Annotated[tuple[str, ...], Field(max_length=100)]
Mean = tuple[Annotated[float, Field(ge=0, le=1)], ...]  # of each channel, in 0..1
Deviation = tuple[Annotated[float, Field(gt=0, le=1)], ...]
Milestones = Annotated[tuple[Epochs, ...], Field(max_length=LONGEST_LIST)]
# positions or names of a teacher's classes, one for each class of the data
Classes = Annotated[
    tuple[Annotated[int | str, BeforeValidator(_check_class)], ...],
    Field(min_length=1, max_length=100_000),
]
Seeds = Annotated[tuple[Seed, ...], Field(max_length=LONGEST_LIST)]
Points = Annotated[tuple[dict[str, Any], ...], Field(max_length=LONGEST_LIST)]  # sets of settings
Values = Annotated[tuple[Any, ...], Field(max_length=100)]  # values of a searched key
Seconds = Annotated[float, Field(gt=0, le=366 * 24 * 3600, json_schema_extra={"unit": "s"})]


class Section(BaseModel):
    """Section of the configuration: frozen, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _merge_defaults(cls, values: Any) -> Any:
        """Merge a partial section with its default.

        A choice with another name discards the settings of its default.
        """
        if not isinstance(values, dict):
            return values
        for name, value in values.items():
            refuse_renamed(f"{cls.__name__.lower()}.{name}", value)
        merged = dict(values)
        for name, field in cls.model_fields.items():
            section, default = values.get(name), field.default
            if (
                isinstance(section, dict)
                and isinstance(default, Section)
                and not (isinstance(default, Choice) and "name" in section)
            ):
                merged[name] = default.model_dump(exclude_unset=True) | section
        return merged

    @field_validator("*", mode="before")
    @classmethod
    def _check_type(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = {getattr(kind, "__origin__", kind) for kind in (annotation, *get_args(annotation))}
        if kinds & {int, float} and isinstance(value, bool | str):
            raise PydanticCustomError("number", "Input should be a number")
        if bool in kinds and not isinstance(value, bool | None):
            raise PydanticCustomError("truth", "Input should be true or false")
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise PydanticCustomError(
                "text", "a string may have at most {most} characters", {"most": LONGEST_TEXT}
            )
        if isinstance(value, str) and (odd := control_character(value)):
            raise PydanticCustomError(
                "text", "it contains the character {odd}; remove it", {"odd": odd}
            )
        return value


class Choice(Section):
    """Name and the settings that belong to it."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    name: str = Field(description="Name; the reference lists all names.")

    @property
    def settings(self) -> dict[str, Any]:
        """Return the given settings, without the name and the fields that every choice has."""
        return dict(self.model_extra or {})


def make_overrides(section: type[Section], *keys: str) -> type[Section]:
    """Return a section with some keys of another section, each null by default."""
    fields: dict[str, Any] = {key: (section.__annotations__[key] | None, None) for key in keys}
    return create_model(f"{section.__name__}Overrides", __base__=Section, **fields)


def require_mean_with_std(mean: Mean | None, std: Deviation | None) -> None:
    """Require a mean and a standard deviation of equally many channels, or neither.

    Raises:
        FieldError: One is missing or empty, or their lengths differ.
    """
    if len(mean or ()) != len(std or ()) or () in (mean, std):
        texts = ["null" if values is None else list(values) for values in (mean, std)]
        raise FieldError(
            f"mean = {texts[0]} with std = {texts[1]} is not allowed: give both with one value for "
            f"each channel, or neither"
        ).with_details("mean", mean, "as many values as std has")


def allowed_at(section: type[BaseModel], location: Sequence[int | str]) -> object:
    """Return what a section allows at a location within it; None if it has no such key.

    Args:
        section: The section.
        location: The path of keys and indices, as in errors of pydantic.

    Returns:
        Names of a choice or of the keys of a section, the pair of bounds of a number (the value may
        have to lie strictly within), the length of a text or a list in words, or the type of
        anything else.
    """
    annotation: Any = section
    for part in location:
        kinds = list_types(annotation)
        inner = next(
            (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None
        )
        if inner is not None and str(part) in inner.model_fields:
            annotation = _annotate(inner.model_fields[str(part)])
        elif items := [kind for kind in kinds if get_origin(kind) in (tuple, dict)]:
            annotation = next(kind for kind in reversed(get_args(items[0])) if kind is not Ellipsis)
        else:
            return None
    return _allowed(annotation)


def list_types(annotation: Any) -> list[Any]:
    """Return the types of a union annotation, without annotated metadata."""
    if get_origin(annotation) is Annotated:
        return list_types(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for each in get_args(annotation) for kind in list_types(each)]
    return [annotation]


def _allowed(annotation: Any) -> object:
    limits = _limits(annotation)
    low, high = (
        next((limits[name] for name in names if name in limits), None)
        for names in (("ge", "gt"), ("le", "lt"))
    )
    if (low, high) != (None, None):
        return (low, high)
    kind = next((kind for kind in list_types(annotation) if kind is not NoneType), None)
    if "max_length" in limits:
        unit = "characters" if kind is str else "values"
        return f"{limits.get('min_length', 0)} to {limits['max_length']} {unit}"
    if get_origin(kind) is Literal:
        return get_args(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return tuple(kind.model_fields)
    return get_origin(kind) or kind


def read_annotation_limits(field: FieldInfo) -> dict[str, Any]:
    """Return the bounds and lengths of a declaration, also if it may be null."""
    return _limits(_annotate(field))


def _annotate(field: FieldInfo) -> Any:
    """Return the type of a declaration with its metadata."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _limits(annotation: Any) -> dict[str, Any]:
    """Return the bounds and lengths of an annotation, or of a member of its union."""
    if get_origin(annotation) in (Union, UnionType):
        return {
            name: value for kind in get_args(annotation) for name, value in _limits(kind).items()
        }
    if get_origin(annotation) is not Annotated:
        return {}
    kind, *metadata = get_args(annotation)
    every = [
        each
        for item in metadata
        for each in (item.metadata if isinstance(item, FieldInfo) else [item])
    ]
    names = ("ge", "gt", "le", "lt", "min_length", "max_length")
    return _limits(kind) | {
        name: getattr(item, name) for item in every for name in names if hasattr(item, name)
    }
