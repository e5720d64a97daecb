"""Read the settings.json of an export, and refuse impossible sizes and numbers."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from orchestrator.core.errors import ConfigurationError
from orchestrator.core.text import SURROGATE, control_character, shorten
from orchestrator.data.checks import MOST_CHANNELS
from orchestrator.export.formats import FORMATS, NAME, SETTINGS

FORMAT = 1
LARGEST_SIDE = 2**13  # pixels: an image of three channels is 800 MB as float32
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]


class _Section(BaseModel):
    model_config = ConfigDict(strict=True)


class _Head(_Section):
    format: Annotated[int, Field(ge=1)]
    form: str = NAME


class _Input(_Section):
    shape: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MOST_CHANNELS)], Side, Side], Field(strict=False)
    ]  # a list of JSON
    mean: list[FiniteFloat]
    std: list[Annotated[FiniteFloat, Field(gt=0)]]
    cut: Annotated[float, Field(ge=0.01, le=1)] | None

    @model_validator(mode="after")
    def _of_each_channel(self) -> "_Input":
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError(f"mean and std must have {self.shape[0]} values, one per channel")
        return self


class _Network(_Section):
    name: str


class _Whole(_Head):
    network: _Network
    classes: Annotated[list[str], Field(min_length=1)]
    input: _Input


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the content of settings.json of an export.

    Raises:
        ConfigurationError: The file is missing, damaged, or of a newer version.
    """
    try:
        settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
        if odd := control_character(json.dumps(settings, ensure_ascii=False), (SURROGATE,)):
            raise ValueError(f"{SETTINGS} contains the surrogate {odd}, which is not a character")
        head = _Head.model_validate(settings)
        newer = head.format > FORMAT or head.form not in FORMATS
        if not newer:
            _Whole.model_validate(settings)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"{folder} is not an exported student, or it is damaged ({_reason(error)}): export it "
            f"again with `python run.py export`"
        ).with_details(str(folder / SETTINGS), _reason(error)) from error
    if newer:
        raise ConfigurationError(
            f"{folder} was written by a newer version of this program: update it to load the "
            f"student"
        ).with_details(str(folder / SETTINGS), (head.format, head.form), (FORMAT, tuple(FORMATS)))
    return settings


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
