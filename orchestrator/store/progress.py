"""What a checkpoint says of its trial: the records of the epochs, when the student was best, the sums of its files."""

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
    """What a worker reports of a finished epoch."""

    epoch: Epoch
    metrics: dict[str, float]
    notes: NotRequired[list[str]]
    done: NotRequired[bool]


@with_config(STRICT)
class WeightsProgress(TypedDict, total=False):
    """Of a student whose samples are weighed: what the last survey noted, and the one that is on its way."""

    noted: dict[str, float]
    pending: Epoch
    before: dict[str, float]


@with_config(STRICT)
class Progress(TypedDict):
    """`record` is of the last epoch; `records`, of all of them, stands with the first student alone, and in no older checkpoint.

    `files` are the CRC-32 sums of the student's other files.
    """

    record: EpochRecord
    records: NotRequired[list[EpochRecord]]
    best_value: Finite
    best_epoch: Epoch
    weights: NotRequired[WeightsProgress]
    files: NotRequired[dict[str, str]]


PROGRESS = RecordSchema[Progress](Progress, advice="train the trial anew", other_keys=True)


def read_progress(student: Path) -> Progress:
    """Return the progress in a student's folder of a checkpoint; DamagedRecordError names the key."""
    file = student / PROGRESS_FILE
    found = PROGRESS.read(file)
    last, epochs = found["record"]["epoch"], [record["epoch"] for record in found.get("records", ())]
    if epochs and (epochs[-1] != last or any(one >= other for one, other in itertools.pairwise(epochs))):
        raise DamagedRecordError(
            file, f"records are of the epochs {_shortened(epochs)}, and record is of epoch {last}", key="records"
        )
    if found["best_epoch"] > last:
        raise DamagedRecordError(file, f"best_epoch = {found['best_epoch']}, and record is of epoch {last}", key="best_epoch")
    return found


def told_epochs(trial: Path) -> list[EpochRecord]:
    """Return the records that the checkpoint in the folder of a trial holds, none where it cannot be used."""
    try:
        found = read_progress(trial / CHECKPOINT)
    except DamagedRecordError:
        return []
    return found.get("records", [found["record"]])


def _shortened(values: list[Any]) -> str:
    return ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
