"""The types of the configuration's fields, each with its bounds, and the section that holds them."""

from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.config.renamed import refuse_renamed
from orchestrator.core.paths import path_problem
from orchestrator.core.text import control_character

LONGEST_TEXT = 5000  # characters: more than the longest path
LONGEST_LIST = 1000
MOST_TRIALS = 100_000
SMALLEST_PART = 0.001  # of a CPU or a GPU: Ray counts in parts of 1/10,000


def _path_of_a_file_system(path: Any) -> Any:
    if isinstance(path, str | Path) and (problem := path_problem(str(path))):
        raise PydanticCustomError("path", "it {problem}, give another path", {"problem": problem})
    return path


def _part(value: float) -> float:
    if 0 < value < SMALLEST_PART:
        raise PydanticCustomError("part", "give 0, or {least} or more", {"least": SMALLEST_PART})
    return value


GivenPath = Annotated[Path, BeforeValidator(_path_of_a_file_system)]
PathText = Annotated[str, BeforeValidator(_path_of_a_file_system)]
Share = Annotated[float, Field(ge=0, lt=1)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Samples = Annotated[int, Field(ge=1, le=1_000_000_000, json_schema_extra={"unit": "samples"})]
Epochs = Annotated[int, Field(ge=1, le=100_000, json_schema_extra={"unit": "epochs"})]
WarmupEpochs = Annotated[float, Field(ge=0, le=100_000, json_schema_extra={"unit": "epochs"})]
BatchSize = Annotated[int, Field(ge=1, le=1_000_000, json_schema_extra={"unit": "samples"})]
Trials = Annotated[int, Field(ge=1, le=MOST_TRIALS, json_schema_extra={"unit": "trials"})]
LearningRate = Annotated[float, Field(gt=0, le=1e30)]  # such a rate diverges, and fits into float32
WeightDecay = Annotated[float, Field(ge=0, le=1000)]
Norm = Annotated[float, Field(gt=0, le=1e9)]
Gamma = Annotated[float, Field(gt=0, le=1)]
Workers = Annotated[int, Field(ge=1, le=1024, json_schema_extra={"unit": "workers"})]
Threads = Annotated[int, Field(ge=1, le=1024, json_schema_extra={"unit": "threads"})]
Cpus = Annotated[float, Field(ge=SMALLEST_PART, le=4096, json_schema_extra={"unit": "cores"})]
Gpus = Annotated[float, Field(ge=0, le=1024, json_schema_extra={"unit": "GPUs"}), AfterValidator(_part)]
Gib = Annotated[float, Field(gt=0, le=1_048_576, json_schema_extra={"unit": "GiB"})]
Names = Annotated[tuple[str, ...], Field(max_length=100)]
Milestones = Annotated[tuple[Epochs, ...], Field(max_length=LONGEST_LIST)]
Seeds = Annotated[tuple[Seed, ...], Field(max_length=LONGEST_LIST)]
Points = Annotated[tuple[dict[str, Any], ...], Field(max_length=LONGEST_LIST)]  # sets of settings
Values = Annotated[tuple[Any, ...], Field(max_length=100)]  # of a key that is searched
Seconds = Annotated[float, Field(gt=0, le=366 * 24 * 3600, json_schema_extra={"unit": "s"})]


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys refused, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _on_top_of_defaults(cls, values: Any) -> Any:
        """A section that is given in part keeps the rest of its default; a choice that is named anew does not."""
        if not isinstance(values, dict):
            return values
        for name, value in values.items():
            refuse_renamed(f"{cls.__name__.lower()}.{name}", value)
        merged = dict(values)
        for name, field in cls.model_fields.items():
            given, default = values.get(name), field.default
            if isinstance(given, dict) and isinstance(default, Section) and not (isinstance(default, Choice) and "name" in given):
                merged[name] = default.model_dump(exclude_unset=True) | given
        return merged

    @field_validator("*", mode="before")
    @classmethod
    def _no_other_type(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = {getattr(kind, "__origin__", kind) for kind in (annotation, *get_args(annotation))}
        if kinds & {int, float} and isinstance(value, bool | str):
            raise PydanticCustomError("number", "input should be a number")
        if bool in kinds and not isinstance(value, bool | None):
            raise PydanticCustomError("truth", "input should be true or false")
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise PydanticCustomError("text", "a text has at most {most} characters", {"most": LONGEST_TEXT})
        if isinstance(value, str) and (odd := control_character(value)):
            raise PydanticCustomError("text", "it has the character {odd}, leave it out", {"odd": odd})
        return value


class Choice(Section):
    """A name with settings of its own, which the thing that is named validates."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    name: str = Field(description="its name, from the list of the reference")

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that were given, without the name and the fields that every choice has."""
        return dict(self.model_extra or {})
