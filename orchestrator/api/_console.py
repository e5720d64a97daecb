"""Print progress and notes of runs that are started from Python."""

import logging
import warnings
from collections.abc import Callable

from rich.console import Console

from orchestrator.core.privacy import sanitize
from orchestrator.reporting.terminal.lines import print_line

# It recommends packages for the output of Ray in notebooks, which is not shown.
logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)


def make_console(progress: bool) -> Console:
    """Return a console on standard error; without `progress` it prints nothing."""
    return Console(stderr=True, quiet=not progress)


def make_note_printer(console: Console) -> Callable[[str], None]:
    """Return a function that prints a note about behaviour that the user may not expect.

    With a console that prints nothing, the note is a warning of Python.
    """

    def note(text: str) -> None:
        if console.quiet:
            warnings.warn(sanitize(text), stacklevel=2)
        else:
            print_line(console, sanitize(f"note: {text}"))

    return note
