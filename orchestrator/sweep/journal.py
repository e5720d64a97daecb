"""The file of a study: a line is there as a whole, also on a full disk and after the death of who wrote it. Knows no trials."""

import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from orchestrator import space
from orchestrator.errors import ConfigurationError

JOURNAL = "study.log"


class StudyFile(JournalFileBackend):
    """Optuna's file; what could not be appended as a whole is cut off, and appended when there is room again."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append the operations. After a signal a full disk is waited for no more: OSError, and the file is as it was."""
        space.patiently(lambda: self._append(logs), Path(self._file_path))

    def _append(self, logs: list[dict[str, Any]]) -> None:
        size = os.path.getsize(self._file_path)
        try:
            super().append_logs(logs)
        except BaseException:
            os.truncate(self._file_path, size)
            raise


def repair(file: Path) -> None:
    """Make the journal one that can be read and appended to; only for whoever holds the sweep.

    A last line that is damaged was being written, or lost by the disk: it goes, and the records say what it said.
    ConfigurationError names a line before it that is damaged: what follows has no meaning without it.
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
            raise ConfigurationError(
                f"{file}: line {number} is damaged: put the file back from a backup, or remove it, and the resume makes the study "
                "anew of the records of the trials"
            )
    with file.open("r+b") as stream:
        stream.truncate(sound)
        stream.flush()
        os.fsync(stream.fileno())


def _whole(line: bytes) -> bool:
    """Whether the line is one operation, as it was written."""
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
