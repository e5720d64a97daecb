"""Check a file of user code, and print the result of each check."""

from pathlib import Path

from rich.table import Table
from rich.text import Text

from orchestrator.cli._run import console
from orchestrator.core import errors
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.privacy import sanitize
from orchestrator.extensions.conformance import Example, run_checks
from orchestrator.extensions.loading import load_code
from orchestrator.extensions.registry import ENTRIES


def check_code(
    files: list[Path],
    plugins: list[str],
    classes: int,
    shape: str,
    path: Path | None,
    size: int | None,
) -> int:
    """Load files and plugins, check what they register, and print a table; return the exit code.

    Args:
        files: The files, in their order.
        plugins: Names of plugins.
        classes: Number of classes of the checked networks and metrics.
        shape: Shape of the checked images, such as `3,32,32`.
        path: `data.path` of the checked data sets.
        size: `data.size` of the checked data sets.

    Raises:
        ConfigurationError: The code cannot be loaded, or registers nothing.
    """
    example = Example(classes, _parse_shape(shape), path, size)
    load_code(files, plugins)
    if not ENTRIES:
        raise ConfigurationError(
            "the code registers nothing: use the decorators od.network, od.dataset, od.method, "
            "od.transform and od.metric"
        ).with_details("--code", tuple(map(str, files)), "a file that registers something")
    table = Table()
    for title in ("object", "location", "check", "result"):
        table.add_column(title)
    failed = 0
    for entry, check, problem in run_checks(example):
        failed += bool(problem)
        result = f"failed: {problem}" if problem else "ok"
        words = (f"{entry.kind} {entry.name}", entry.location, check, result)
        table.add_row(*(Text(sanitize(word)) for word in words))
    console.print(table)
    console.print(f"{failed} failed" if failed else "all checks passed")
    return errors.BAD_CONFIGURATION if failed else errors.OK


def _parse_shape(text: str) -> tuple[int, int, int]:
    sides = text.split(",")
    if len(sides) != 3 or not all(side.strip().isdecimal() and int(side) > 0 for side in sides):
        raise ConfigurationError(
            f"--shape {text} is not allowed: give channels, height and width, such as 3,32,32"
        ).with_details("--shape", text, "3,32,32")
    channels, height, width = map(int, sides)
    return channels, height, width
