"""Define each kind of write to MLflow, and the line of JSON that holds it in the outbox."""

from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, TypeAdapter, ValidationError

Point = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step
Tags = dict[str, str]
STRICT = ConfigDict(strict=True)


@dataclass(frozen=True, slots=True)
class RunProgress:
    """Recorded progress of a run; None where a write does not change it.

    Attributes:
        epoch: The last epoch.
        changes: The number of weight transfers.
        measured: The number of measurements of the machine.
        state: The state.
        teacher: Whether the teacher is recorded.
        gains: A student's gains from peer learning, on validation and test.
        front: Whether the trial is on the Pareto front, as text.
        best: The number and the epochs of the best trial whose metrics are recorded.
        best_tag: The number of the trial that is tagged as the best one.
        model: The number and the epochs of the trial whose student is queued as a model.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    epoch: int | None = None
    changes: int | None = None
    measured: int | None = None
    state: str | None = None
    teacher: bool | None = None
    gains: tuple[float, float] | None = None
    front: str | None = None
    best: tuple[int, int] | None = None
    best_tag: Annotated[int | None, Field(alias="best.tag")] = None
    model: tuple[int, int] | None = None

    def merge(self, later: "RunProgress") -> "RunProgress":
        """Return the progress after a later write."""
        values = {each.name: getattr(later, each.name) for each in fields(later)}
        return replace(self, **{key: value for key, value in values.items() if value is not None})

    def plain(self) -> dict[str, Any]:
        """Return the values that are set, under their stored names."""
        values = {each.name.replace("_", "."): getattr(self, each.name) for each in fields(self)}
        return {key: value for key, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunWrite:
    """Write to the run with the key `run`.

    `progress` is the progress after the write, stored as `told`. With `existing`, a missing run is
    not created.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    run: str
    progress: Annotated[RunProgress | None, Field(alias="told")] = None
    existing: bool = False

    def plain(self) -> dict[str, Any]:
        """Return the write as JSON values, without the optional fields that are not set."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        if not self.existing:
            del values["existing"]
        progress = values.pop("progress")
        return values | ({"told": progress.plain()} if progress is not None else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun(_RunWrite):
    """Open a run, or continue it; `at` is the start in milliseconds since 1970."""

    do: Literal["open"] = "open"
    name: str
    tags: Tags
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPoints(_RunWrite):
    """Log metrics, by the key of their run."""

    do: Literal["points"] = "points"
    points: dict[str, list[Point]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogParams(_RunWrite):
    """Log params."""

    do: Literal["params"] = "params"
    params: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTags(_RunWrite):
    """Set tags; `ids` are tags whose values are ids of runs, and `without` are tags to delete."""

    do: Literal["tags"] = "tags"
    tags: Tags
    ids: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseRun(_RunWrite):
    """Close a run at a time in milliseconds since 1970."""

    do: Literal["close"] = "close"
    tags: Tags
    status: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogText(_RunWrite):
    """Log a text file."""

    do: Literal["text"] = "text"
    text: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFigures(_RunWrite):
    """Draw and log the figures of a trial, if `tracking.figures` selects it.

    `letters` are those of its runs of students.
    """

    do: Literal["figures"] = "figures"
    complete: bool
    letters: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFront(_RunWrite):
    """Log the Pareto front as a file and a picture.

    Attributes:
        content: The content of the file.
        values: The objectives of each complete trial.
        numbers: The trials on the front.
        names: The objectives, in words.
        file: The name of the files, without extension.
    """

    do: Literal["front"] = "front"
    content: Annotated[dict[str, Any], Field(alias="plain")]
    values: dict[str, list[float]]
    numbers: list[int]
    names: list[str]
    file: str

    def plain(self) -> dict[str, Any]:
        """Return the write as JSON values."""
        values = _RunWrite.plain(self)
        return values | {"plain": values.pop("content")}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogDataset(_RunWrite):
    """Log the data as a dataset entity of MLflow."""

    do: Literal["dataset"] = "dataset"
    dataset: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterModel(_RunWrite):
    """Log and register the student `letter` of a trial."""

    do: Literal["model"] = "model"
    trial: int
    letter: str
    tags: Tags


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactedWrites:
    """The progress of each run after all writes that were removed from the file."""

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    progress: Annotated[dict[str, RunProgress], Field(alias="all_told")]

    def plain(self) -> dict[str, Any]:
        """Return the progress of the runs as JSON values."""
        return {"all_told": {run: each.plain() for run, each in self.progress.items()}}


Write = (
    OpenRun
    | LogPoints
    | LogParams
    | SetTags
    | CloseRun
    | LogText
    | LogFigures
    | LogFront
    | LogDataset
    | RegisterModel
)


def parse_line(line: bytes) -> Write | CompactedWrites | None:
    """Return the content of a line, or None if the line is not valid."""
    try:
        content: Write | CompactedWrites = _lines().validate_json(line)
    except ValidationError:
        return None
    return content


@cache
def _lines() -> TypeAdapter[Any]:
    return TypeAdapter(CompactedWrites | Annotated[Write, Discriminator("do")])
