"""Make a package callable, where a function of the Python interface has the package's name."""

import importlib
import sys
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """Package that forwards a call to the function of its name in `orchestrator.api`.

    `orchestrator.data`, `orchestrator.teacher` and `orchestrator.sweep` are packages, and functions
    of the Python interface. Importing a package sets the attribute of its parent, so a function of
    the same name there would be replaced at the first import.
    """

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the function; see its documentation in `orchestrator.api`."""
        # by name and late: the function's package imports nearly everything else
        interface = importlib.import_module("orchestrator.api")
        return getattr(interface, self.__name__.rpartition(".")[2])(*arguments, **keywords)


def make_callable(package: str) -> None:
    """Make an imported package callable."""
    sys.modules[package].__class__ = CallableModule
