"""List the methods."""

from typing import TYPE_CHECKING

from orchestrator.core import errors

if TYPE_CHECKING:
    pass

from orchestrator.cli._run import console


def methods() -> int:
    """The methods, their settings and their search spaces."""
    from orchestrator.reporting.terminal.methods_table import print_methods

    print_methods(console)
    return errors.OK
