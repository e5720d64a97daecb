"""Write a sweep's HTML page, or a comparison's tables, to a file, and log them to MLflow."""

from pathlib import Path

from rich.console import Console

from orchestrator.cli._comparisons import write_comparison
from orchestrator.cli._names import find_comparison
from orchestrator.core import errors
from orchestrator.core.privacy import sanitize
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.reporting.terminal.progress import show_damage
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep.report_file import write_report

console = Console()


def report(name: str, store: Path | str, to: Path | None) -> int:
    """Write the page of a sweep or a comparison, and log it to MLflow; return the exit code.

    Args:
        name: Name of the sweep or the comparison.
        store: Folder or URI of the store.
        to: Target file; None for `reports/NAME.html`, or `comparisons/NAME/comparison.md`, in the
            store.
    """
    opened = Store.existing(store)
    if comparison := find_comparison(opened, name):
        write_comparison(opened, comparison, to, console)
        return errors.OK
    written = write_report(opened, name, to)
    show_damage(Sweep.open(opened, name), opened.option)
    if written.not_logged:
        logged = f"not logged: {written.not_logged}"
    else:
        logged = f"logged to the run {name} in MLflow: artifact report/{name}.html"
    for line in (*written.summary, f"report: {written.file}", logged):
        print_line(console, sanitize(line))
    return errors.OK
