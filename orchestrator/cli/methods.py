"""List the methods, or explain one."""

from orchestrator.cli._run import console
from orchestrator.core import errors
from orchestrator.core.errors import ConfigurationError, suggest_name


def methods(name: str | None) -> int:
    """Print the methods with their settings and search spaces; return the exit code.

    Args:
        name: The method to print; None for all of them.

    Raises:
        ConfigurationError: There is no such method.
    """
    from methods import METHODS
    from orchestrator.reporting.terminal.methods_table import print_method, print_methods

    if name is None:
        print_methods(console)
    elif name in METHODS:
        print_method(console, name)
    else:
        raise ConfigurationError(
            f"{name!r} is not a method: {suggest_name(name, METHODS)}"
        ).with_details("NAME", name, tuple(METHODS))
    return errors.OK
