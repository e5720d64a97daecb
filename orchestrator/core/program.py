"""Name the commands that start this program and install its extras, for messages."""

import sys
from pathlib import Path

from orchestrator.core.project import IS_INSTALLED

COMMAND = "distil"


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
