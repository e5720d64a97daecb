"""Write a sweep's HTML page to a file, and log it to the sweep's run in MLflow."""

from pathlib import Path

from rich.console import Console

from orchestrator.core import errors
from orchestrator.core.privacy import sanitize
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.reporting.terminal.progress import show_damage
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep.report_file import write_report

console = Console()


def report(name: str, store: Path | str, to: Path | None) -> int:
    """Write the page of a sweep, and log it to the sweep's run; return the exit code.

    Args:
        name: Name of the sweep.
        store: Folder or URI of the store.
        to: Target file; None for `reports/NAME.html` in the store.
    """
    opened = Store.existing(store)
    written = write_report(opened, name, to)
    show_damage(Sweep.open(opened, name), opened.option)
    if written.not_logged:
        logged = f"not logged: {written.not_logged}"
    else:
        logged = f"logged to the run {name} in MLflow: artifact report/{name}.html"
    for line in (*written.summary, f"report: {written.file}", logged):
        print_line(console, sanitize(line))
    return errors.OK
