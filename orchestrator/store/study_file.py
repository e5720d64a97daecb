"""The file of a study: a line is there as a whole, also on a full disk and after the death of who wrote it; damage is named."""

import contextlib
import json
import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from pydantic import TypeAdapter

from orchestrator.core import disk
from orchestrator.core.errors import UserError
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.store.records import Change

JOURNAL = "study.log"
ADVICE = "put it back from a backup, or remove it, and the resume makes the study anew of the records of the trials"


class StudyFile(JournalFileBackend):
    """Optuna's file; what could not be appended as a whole is cut off, and appended when there is room again."""

    line = 0  # that was read last

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The operations from one on; `line` is that of the last one that was taken."""
        for self.line, operation in enumerate(super().read_logs(log_number_from), start=log_number_from + 1):
            yield operation

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append the operations. After a signal a full disk is waited for no more: OSError, and the file is as it was."""
        disk.retry_while_disk_full(lambda: self._append(logs), Path(self._file_path))

    def _append(self, logs: list[dict[str, Any]]) -> None:
        size = os.path.getsize(self._file_path)
        try:
            super().append_logs(logs)
        except BaseException:
            os.truncate(self._file_path, size)
            raise


@contextlib.contextmanager
def named_damage(journal: StudyFile, file: Path) -> Iterator[None]:
    """DamagedRecordError for whatever Optuna raises at an operation that is none, or has other values than it may have."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:  # Optuna names no errors of damage: there are KeyError, TypeError, AssertionError and many more
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DamagedRecordError(
            file, f"up to line {journal.line}, {type(error).__name__}: {reason}", ADVICE, f"line {journal.line}"
        ) from error


def sound_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials of a study, whose numbers Optuna takes from its file as they are; ValueError names what cannot be used."""
    trials: list[FrozenTrial] = study.get_trials(deepcopy=False)
    for trial in trials:
        for name, values in (("values", trial.values or ()), ("intermediate_values", trial.intermediate_values.values())):
            for value in values:
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    raise ValueError(f"{name} of trial {trial.number} has {value!r}, which is no finite number")
        if any(type(epoch) is not int or epoch < 0 for epoch in trial.intermediate_values):
            raise ValueError(f"intermediate_values of trial {trial.number} has an epoch that is none")
        _changes().validate_python(trial.user_attrs.get("changes", []))
    return trials


@cache
def _changes() -> TypeAdapter[Any]:
    return TypeAdapter(list[Change])


def repair(file: Path) -> None:
    """Make the journal one that can be read and appended to; only for whoever holds the sweep.

    A last line that is damaged was being written, or lost by the disk: it goes, and the records say what it said.
    DamagedRecordError names a line before it that is damaged: what follows has no meaning without it.
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
            raise DamagedRecordError(file, f"line {number} is no operation", ADVICE, f"line {number}")
    with file.open("r+b") as stream:
        stream.truncate(sound)
        stream.flush()
        os.fsync(stream.fileno())


def _whole(line: bytes) -> bool:
    """Whether the line is one operation, as it was written."""
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
