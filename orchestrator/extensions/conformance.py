"""Run the conformance checks of everything that user code has registered."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from orchestrator.core.errors import UserError, short_reason
from orchestrator.extensions._checking import CheckError, Checks
from orchestrator.extensions.data_checks import dataset_checks, metric_checks, transform_checks
from orchestrator.extensions.method_checks import method_checks
from orchestrator.extensions.network_checks import network_checks
from orchestrator.extensions.registry import ENTRIES, Entry


class Finding(NamedTuple):
    """Result of one check.

    Attributes:
        entry: The checked object.
        check: The name of the check.
        problem: Why it failed, as a clause; empty if it passed.
    """

    entry: Entry
    check: str
    problem: str


class Example(NamedTuple):
    """Sizes of the inputs with which objects are checked.

    Attributes:
        classes: Number of classes K.
        shape: (C, H, W) of an image.
        path: `data.path` of data sets.
        size: `data.size` of data sets.
    """

    classes: int = 10
    shape: tuple[int, int, int] = (3, 32, 32)
    path: Path | None = None
    size: int | None = None


def run_checks(example: Example) -> Iterator[Finding]:
    """Run all checks of all registered objects, and yield their findings.

    A network that cannot be used for the images gets no further check.
    """
    for entry in list(ENTRIES.values()):
        for name, check in _checks_of(entry, example).items():
            error = _run_check(check)
            unusable = (entry.kind, name) == ("network", "outputs") and _is_error_of_code(error)
            yield Finding(entry, name, _describe_problem(error, example, unusable))
            if unusable:
                break


def _checks_of(entry: Entry, example: Example) -> Checks:
    if entry.kind == "network":
        return network_checks(entry.name, example.classes, example.shape)
    if entry.kind == "method":
        return method_checks(entry.name)
    if entry.kind == "dataset":
        return dataset_checks(entry.name, example.path, example.size)
    if entry.kind == "transform":
        return transform_checks(entry.name, example.shape)
    return metric_checks(entry.name, example.classes)


def _run_check(check: Callable[[], None]) -> Exception | None:
    """Run a check; return its error, None if it passed."""
    try:
        check()
    except Exception as error:  # any error of user code
        return error
    return None


def _is_error_of_code(error: Exception | None) -> bool:
    return error is not None and not isinstance(error, CheckError)


def _describe_problem(error: Exception | None, example: Example, unusable: bool) -> str:
    """Return an error as one line, "" without one.

    Args:
        error: The error.
        example: The sizes of the inputs.
        unusable: Whether a network failed for the images.
    """
    if error is None:
        return ""
    is_shape_error = getattr(error, "field", None) == "input_size"
    if unusable and (is_shape_error or isinstance(error, RuntimeError)):
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        size = "x".join(map(str, example.shape))
        return f"it cannot be used for images of {size} ({short_reason(cause)}): give --shape C,H,W"
    if isinstance(error, CheckError | UserError):
        return " ".join(str(error).split())
    return short_reason(error)
