"""Read, append to and repair the journal of an Optuna study.

A line is written as a whole, even on a full disk or if the writer dies. Errors name the damaged
line.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from pydantic import TypeAdapter

from orchestrator.core import disk
from orchestrator.core.errors import ConfigurationError, UserError
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.store.records import Change

JOURNAL = "study.log"
ADVICE = (
    "restore it from a backup, or remove it: a resume then rebuilds the study from the records "
    "of the trials"
)


class StudyFile(JournalFileBackend):
    """Optuna's journal file with atomic appends.

    A partial append is cut off and repeated when the disk has room.
    """

    line = 0  # number of the line that was read last

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Yield the operations from `log_number_from` on.

        `line` is the line number of the operation that was yielded last.
        """
        for self.line, operation in enumerate(
            super().read_logs(log_number_from), start=log_number_from + 1
        ):
            yield operation

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append the operations; wait while the disk is full.

        Raises:
            OSError: The disk is full and a signal has arrived. The file is unchanged.
        """
        disk.retry_while_disk_full(lambda: self._append(logs), Path(self._file_path))

    def _append(self, logs: list[dict[str, Any]]) -> None:
        size = os.path.getsize(self._file_path)
        try:
            super().append_logs(logs)
        except BaseException:
            os.truncate(self._file_path, size)
            raise


@contextlib.contextmanager
def convert_damage_errors(journal: StudyFile, file: Path) -> Iterator[None]:
    """Convert the errors of Optuna within the block to DamagedRecordError.

    Optuna raises them at a line that is no operation or has values that are not allowed.
    """
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:  # damage raises KeyError, TypeError, AssertionError and many more
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedRecordError(
            file,
            f"up to line {journal.line}, {type(error).__name__}: {reason}",
            ADVICE,
            f"line {journal.line}",
        ) from error


def load_valid_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials of a study, with validated numbers.

    Optuna does not check the numbers in its file.

    Raises:
        ValueError: A value, an epoch or a weight transfer cannot be used. The message names it.
    """
    trials: list[FrozenTrial] = study.get_trials(deepcopy=False)
    for trial in trials:
        for name, values in (
            ("values", trial.values or ()),
            ("intermediate_values", trial.intermediate_values.values()),
        ):
            for value in values:
                if (
                    isinstance(value, bool)
                    or not isinstance(value, int | float)
                    or not math.isfinite(value)
                ):
                    raise ValueError(
                        f"{name} of trial {trial.number} has {value!r}, which is not a finite "
                        f"number"
                    )
        if any(type(epoch) is not int or epoch < 0 for epoch in trial.intermediate_values):
            raise ValueError(f"intermediate_values of trial {trial.number} has an invalid epoch")
        _changes().validate_python(trial.user_attrs.get("changes", []))
    return trials


@cache
def _changes() -> TypeAdapter[Any]:
    return TypeAdapter(list[Change])


def copy_study(file: Path, name: str) -> optuna.Study:
    """Return a copy of a study in memory, whose changes do not affect the journal.

    Args:
        file: The journal.
        name: The name of the study.

    Raises:
        ConfigurationError: There is no journal, as for a single training, or it is damaged.
    """
    if not file.exists():
        raise ConfigurationError(
            f"{name!r} has no study in {file}: give the name of a sweep"
        ).with_details("name", name, "a sweep")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = StudyFile(str(file))
    with convert_damage_errors(journal, file):
        stored = optuna.load_study(study_name=name, storage=JournalStorage(journal))
        copy = optuna.create_study(study_name=name, directions=stored.directions)
        copy.add_trials(stored.get_trials(deepcopy=False))
    return copy


def repair(file: Path) -> None:
    """Make the journal readable and appendable. The caller must hold the lock of the sweep.

    Remove a damaged last line: its write was interrupted, or the disk lost it. The records of the
    trials hold the same facts.

    Raises:
        DamagedRecordError: An earlier line is damaged. The lines after it have no meaning without
            it.
    """
    for left in file.parent.glob(f"{file.name}.lock*"):  # Optuna would wait 30 s for a dead holder
        left.unlink(missing_ok=True)
    if not file.exists():
        return
    sound, number = 0, 0
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):  # noqa: B007
            if not _whole(line):
                break
            sound += len(line)
        else:
            return
        if stream.read(1):
            raise DamagedRecordError(
                file, f"line {number} is not an operation", ADVICE, f"line {number}"
            )
    with file.open("r+b") as stream:
        stream.truncate(sound)
        stream.flush()
        os.fsync(stream.fileno())


def _whole(line: bytes) -> bool:
    """Return whether the line is one complete operation."""
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
