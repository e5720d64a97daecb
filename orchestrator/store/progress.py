"""Define and read the progress record of a checkpoint: epochs, best epoch, file checksums."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.config.trial import CHECKPOINT
from orchestrator.core.reports import Epoch, EpochRecord
from orchestrator.store.record_file import STRICT, DamagedRecordError, Finite, RecordSchema

PROGRESS_FILE = "progress.json"  # in the folder of each student of a checkpoint


@dataclass(frozen=True)
class Progress:
    """Progress of one student of a checkpoint.

    Attributes:
        record: The record of the last epoch.
        best_value: The best value of the student so far.
        best_epoch: The epoch of `best_value`.
        records: The records of all epochs. Only the first student has them, and older checkpoints
            lack them.
        components: The values of the components of the training loop by name, which check them.
        files: The CRC-32 sums of the student's other files; older checkpoints lack them.
        weights: The values of the sample weights in older checkpoints.
    """

    __pydantic_config__ = STRICT
    record: EpochRecord
    best_value: Finite
    best_epoch: Epoch
    records: list[EpochRecord] = field(default_factory=list)
    components: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Return the progress as JSON values."""
        values: dict[str, Any] = {
            "record": self.record.plain(),
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
        }
        if self.records:
            values["records"] = [record.plain() for record in self.records]
        return values | {"components": self.components, "files": self.files}


PROGRESS = RecordSchema[Progress](Progress, advice="train the trial again", other_keys=True)


def read_progress(student: Path) -> Progress:
    """Return the progress in a student's folder of a checkpoint.

    Raises:
        DamagedRecordError: The record cannot be used. The error names the key.
    """
    file = student / PROGRESS_FILE
    progress = PROGRESS.read(file)
    last, epochs = progress.record.epoch, [record.epoch for record in progress.records]
    if epochs and (
        epochs[-1] != last or any(one >= other for one, other in itertools.pairwise(epochs))
    ):
        raise DamagedRecordError(
            file,
            f"`records` has the epochs {_shortened(epochs)}, but `record` is that of epoch {last}",
            key="records",
        )
    if progress.best_epoch > last:
        raise DamagedRecordError(
            file,
            f"best_epoch = {progress.best_epoch}, but `record` is that of epoch {last}",
            key="best_epoch",
        )
    return progress


def reported_epochs(trial: Path) -> list[EpochRecord]:
    """Return the epoch records in the checkpoint of a trial's folder.

    The list is empty if the checkpoint cannot be used.
    """
    try:
        progress = read_progress(trial / CHECKPOINT)
    except DamagedRecordError:
        return []
    return progress.records or [progress.record]


def _shortened(values: list[Any]) -> str:
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
