"""Define the reports of a worker on a trial, and the dispatcher's answers to their reader."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import ConfigDict, Field

Epoch = Annotated[int, Field(ge=1, le=10**7)]


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """Report on a finished epoch, which checkpoints keep as JSON.

    Attributes:
        epoch: The number of finished epochs. In a precomputation it counts views.
        metrics: The values by metric name.
        done: Whether it is the last epoch of the trial.
        notes: Messages for the user.
        behind: Whether a later record, which is already in the checkpoint, follows at once. This is
            never stored.
    """

    __pydantic_config__ = ConfigDict(strict=True)
    epoch: Epoch
    metrics: dict[str, float]
    done: bool = False
    notes: tuple[str, ...] = ()
    behind: bool = False

    def plain(self) -> dict[str, Any]:
        """Return the record as JSON values, without `behind` and without defaults."""
        values: dict[str, Any] = {"epoch": self.epoch, "metrics": self.metrics}
        if self.done:
            values["done"] = True
        return values | ({"notes": list(self.notes)} if self.notes else {})


@dataclass(frozen=True, slots=True)
class SampleProgress:
    """Report on a view that is being precomputed: the number of its finished samples."""

    samples: int


@dataclass(frozen=True, slots=True)
class TrialFailure:
    """Report on a failure that the trial caused; it is the trial's last one."""

    message: str


@dataclass(frozen=True, slots=True)
class NoWorkers:
    """Answer for a trial that no worker can train any more; a resume continues it."""

    reason: str


@dataclass(frozen=True, slots=True)
class UnknownTrial:
    """Answer for a trial that was not submitted to this dispatcher."""


Report = EpochRecord | SampleProgress | TrialFailure
Answer = tuple[Report | NoWorkers, ...] | UnknownTrial  # (): no report within the time limit
