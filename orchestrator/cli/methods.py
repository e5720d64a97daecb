"""List the methods."""

from orchestrator.cli._run import console
from orchestrator.core import errors


def methods() -> int:
    """Print the methods with their settings and search spaces; return the exit code."""
    from orchestrator.reporting.terminal.methods_table import print_methods

    print_methods(console)
    return errors.OK
