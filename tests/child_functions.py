"""Functions that a child process of a test calls."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from orchestrator.core.errors import ConfigurationError

Note = Callable[[str], None]


def count(last: int, note: Note) -> dict[str, object]:
    """Note every number, and return a property of this process."""
    for number in range(last):
        note(str(number))
    return {"pid": os.getpid(), "program": sys.argv, "mask": os.umask(0)}


def refuse(note: Note) -> None:
    """Refuse a setting after a note."""
    note("before")
    raise ConfigurationError("training.epochs = 0 is not allowed: give 1 or more").with_details(
        "training.epochs", 0, (1, None)
    )


def fail(note: Note) -> None:
    """Raise an error that cannot be pickled."""
    error = ValueError("of a library")
    error.lock = os.scandir  # type: ignore[attr-defined]
    error.function = lambda: None  # type: ignore[attr-defined]
    raise error


def die(note: Note) -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def wait(file: Path, note: Note) -> None:
    """Wait until an interruption, and write a file then."""
    try:
        note(str(os.getpid()))
        time.sleep(60)
    finally:
        file.write_text("cleaned up")
