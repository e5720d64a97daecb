"""Define and read the settings.json of an export, and refuse impossible sizes and numbers."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from orchestrator.core.errors import ConfigurationError
from orchestrator.core.program import program_name
from orchestrator.core.text import SURROGATE, control_character, shorten
from orchestrator.data.checks import MOST_CHANNELS
from orchestrator.export.formats import FORMATS, NAME, SETTINGS

FORMAT = 1
LARGEST_SIDE = 2**13  # pixels: an image of three channels is 800 MB as float32
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Values = dict[str, Any]  # JSON values that only the card shows


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, populate_by_name=True)


class Input(_Section):
    """Preparation of images; `cut` is the share of the short side that is used."""

    shape: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MOST_CHANNELS)], Side, Side], Field(strict=False)
    ]  # a list of JSON
    range: list[int] = [0, 1]
    mean: list[FiniteFloat]
    std: list[Annotated[FiniteFloat, Field(gt=0)]]
    cut: Annotated[float, Field(ge=0.01, le=1)] | None

    @model_validator(mode="after")
    def _of_each_channel(self) -> "Input":
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError(f"mean and std must have {self.shape[0]} values, one per channel")
        return self


class NamedNetwork(_Section):
    """Name of a network, and all of its settings as further keys."""

    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def settings(self) -> dict[str, Any]:
        """Return the network's settings."""
        return self.model_extra or {}


class Source(_Section):
    """Origin of the weights, and the metrics of the student.

    Attributes:
        weights: `best` or `last`.
        by_number: Whether the trial was chosen by its number.
        chosen: How the trial was chosen, in words.
        taken_over: The weight transfers from other trials.
        epoch: The epoch of the weights.
        best_epoch: The epoch of the best weights.
        epochs: The epoch of the last weights.
        metrics: The validation and test metrics of the best and the last weights.
    """

    run: str
    trial: int
    state: str
    student: str
    weights: str
    by_number: bool = Field(alias="asked")
    chosen: str
    taken_over: list[Any]
    epoch: int
    best_epoch: int
    epochs: int
    metrics: dict[str, float]


class OverSeeds(_Section):
    """Seeds of equal trials, and the `mean` and standard `error` of each metric over them."""

    seeds: list[int]
    metrics: dict[str, dict[str, float | None]]


class UsedData(_Section):
    """Data of the training, and their settings as further keys."""

    model_config = ConfigDict(extra="allow")
    name: str
    fingerprint: str
    sizes: dict[str, int]


class UsedMethod(_Section):
    """Method of the training with every setting, defaults too."""

    name: str
    provenance: str
    settings: Values


class Checked(_Section):
    """Result of a check: numbers of images, and the difference of the logits."""

    random: int
    validation: int
    largest_difference: float
    tolerance: float


class _Head(_Section):
    format: Annotated[int, Field(ge=1)]
    form: str = NAME


class StudentSettings(_Head):
    """Settings that are needed to load a student; older exports lack some of the others."""

    network: NamedNetwork
    classes: Annotated[list[str], Field(min_length=1)]
    input: Input
    code: dict[str, str] = {}  # hashes of the user code of the run


class ExportSettings(StudentSettings):
    """All settings of an exported student, which settings.json holds."""

    name: str
    file: str
    fingerprint: str
    parameters: int
    source: Source
    over_seeds: OverSeeds | None
    searched: Values
    data: UsedData
    teacher: Values | None
    teachers: list[Values] = []  # several, instead of one
    ensemble: Values = {}  # how their logits were averaged
    uses_peers: bool = Field(alias="hears_others")
    method: UsedMethod
    training: Values
    seed: int
    peers: dict[str, NamedNetwork] = Field(alias="beside")
    checked: Checked | None = None  # written last

    def plain(self) -> dict[str, Any]:
        """Return the settings as JSON values; code and several teachers only if there are any."""
        without = {name for name in ("code", "teachers", "ensemble") if not getattr(self, name)}
        return self.model_dump(mode="json", by_alias=True, exclude=without)


def read_settings(folder: Path) -> StudentSettings:
    """Return the content of settings.json of an export.

    Raises:
        ConfigurationError: The file is missing, damaged, or of a newer version.
    """
    try:
        values = json.loads((folder / SETTINGS).read_text())
        if odd := control_character(json.dumps(values, ensure_ascii=False), (SURROGATE,)):
            raise ValueError(f"{SETTINGS} contains the surrogate {odd}, which is not a character")
        head = _Head.model_validate(values)
        if head.format <= FORMAT and head.form in FORMATS:
            return StudentSettings.model_validate(values)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{folder} is not an exported student, or it is damaged ({_reason(error)}): export it "
            f"again with `{program_name()} export`"
        ).with_details(str(folder / SETTINGS), _reason(error)) from error
    raise ConfigurationError(
        f"{folder} was written by a newer version of this program: update it to load the student"
    ).with_details(str(folder / SETTINGS), (head.format, head.form), (FORMAT, tuple(FORMATS)))


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return (
            f"{SETTINGS}: {'.'.join(str(part) for part in first['loc']) or 'the whole file'}: "
            f"{first['msg']}"
        )
    if isinstance(error, OSError):
        return f"{SETTINGS}: {error.strerror or error}"
    return shorten(
        f"{type(error).__name__}: {error}" if type(error) is not ValueError else str(error)
    )
