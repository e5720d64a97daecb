"""Name the commands that start this program and install its extras, for messages."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.core.project import IS_INSTALLED

COMMAND = "distil"
_code_options: list[str] = []


def program_name() -> str:
    """Return the words that start this program: `distil`, or `python run.py` in a checkout.

    A process that was not started from the command line, such as a Ray worker, uses the form that
    the installation offers.
    """
    started_as = Path(sys.argv[0]).stem if sys.argv else ""
    return COMMAND if IS_INSTALLED or started_as == COMMAND else "python run.py"


def install_command(extra: str) -> str:
    """Return the command that installs the packages of an optional extra."""
    return f"pip install '{'distillation-orchestrator' if IS_INSTALLED else '.'}[{extra}]'"


def code_options() -> list[str]:
    """Return the options `--code` and `--plugin` of this command, for commands in messages."""
    return list(_code_options)


@contextlib.contextmanager
def code_options_of(code: Sequence[Path], plugins: Sequence[str]) -> Iterator[None]:
    """Keep the options of a command for `code_options` while it runs."""
    words = [("--code", str(file)) for file in code] + [("--plugin", name) for name in plugins]
    _code_options[:] = [word for pair in words for word in pair]
    try:
        yield
    finally:
        _code_options.clear()
