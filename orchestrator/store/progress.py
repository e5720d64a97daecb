"""Define and read the progress record of a checkpoint: epochs, best epoch, file checksums."""

import itertools
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from orchestrator.config.trial import CHECKPOINT
from orchestrator.store.record_file import STRICT, DamagedRecordError, Finite, RecordSchema

PROGRESS_FILE = "progress.json"  # in the folder of each student of a checkpoint
Epoch = Annotated[int, Field(ge=1, le=10**7)]


@with_config(STRICT)
class EpochRecord(TypedDict):
    """Report of a worker on a finished epoch."""

    epoch: Epoch
    metrics: dict[str, float]
    notes: NotRequired[list[str]]
    done: NotRequired[bool]


@with_config(STRICT)
class Progress(TypedDict):
    """Progress of one student of a checkpoint.

    `record` is that of the last epoch. `records` holds those of all epochs; only the first student
    has it, and older checkpoints lack it. `components` holds the values of the components of the
    training loop by name, which check them. `files` holds the CRC-32 sums of the student's other
    files.
    """

    record: EpochRecord
    records: NotRequired[list[EpochRecord]]
    best_value: Finite
    best_epoch: Epoch
    components: NotRequired[dict[str, dict[str, Any]]]
    files: NotRequired[dict[str, str]]


PROGRESS = RecordSchema[Progress](Progress, advice="train the trial again", other_keys=True)


def read_progress(student: Path) -> Progress:
    """Return the progress in a student's folder of a checkpoint.

    Raises:
        DamagedRecordError: The record cannot be used. The error names the key.
    """
    file = student / PROGRESS_FILE
    progress = PROGRESS.read(file)
    last = progress["record"]["epoch"]
    epochs = [record["epoch"] for record in progress.get("records", ())]
    if epochs and (
        epochs[-1] != last or any(one >= other for one, other in itertools.pairwise(epochs))
    ):
        raise DamagedRecordError(
            file,
            f"`records` has the epochs {_shortened(epochs)}, but `record` is that of epoch {last}",
            key="records",
        )
    if progress["best_epoch"] > last:
        raise DamagedRecordError(
            file,
            f"best_epoch = {progress['best_epoch']}, but `record` is that of epoch {last}",
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
    return progress.get("records", [progress["record"]])


def _shortened(values: list[Any]) -> str:
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
