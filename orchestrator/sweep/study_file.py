"""The journal of a study on a disk that may be full: a line is there as a whole, or it is waited for. Knows no trials."""

import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from orchestrator import space


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
