"""Find the line of user code that failed."""

import sysconfig
import traceback
from functools import cache
from pathlib import Path

from orchestrator.core.project import PACKAGES


def failure_location(error: BaseException, default: str) -> str:
    """Return file and line of the last traceback frame that lies in a file of the user.

    Args:
        error: An error that was raised.
        default: The location if no frame does, such as in code of an installed package.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_library_folders()):
            return f"{Path(frame.filename).name}:{frame.lineno}"
    return default


@cache
def _library_folders() -> tuple[str, ...]:
    """Return the beginnings of the file names of Python, of installed packages and of this code."""
    packages = [str(PACKAGES / name) for name in ("orchestrator", "methods", "search_spaces")]
    folders = [*packages, *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib"))]
    return "<frozen ", *(f"{folder}/" for folder in folders)
