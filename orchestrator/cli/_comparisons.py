"""Show the progress of comparisons, and write their pages."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.core.paths import read_path
from orchestrator.core.privacy import sanitize
from orchestrator.core.program import program_name
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.store.store import Store, write_text
from orchestrator.sweep.comparison.progress import ENDED, RUNNING, Progress, read_progress
from orchestrator.sweep.comparison.record import Comparison, describe_choice

PERIOD_S = 2.0


def show_comparison(store: Store, comparison: Comparison, as_json: bool, console: Console) -> None:
    """Print the state, the sweeps and the choices of a comparison, and what to do next."""
    progress = read_progress(store, comparison)
    if as_json:
        print(json.dumps(progress.plain(), indent=1))
        return
    table = Table(title=f"{progress.comparison}: {_summarize(progress)}")
    for column in ("sweep", "purpose", "state", "trials", "failed"):
        table.add_column(column, overflow="fold")
    for part in progress.parts:
        purpose = "trainings over seeds" if part.purpose == "seeds" else f"search of {part.purpose}"
        counts = (f"{part.ended} of {part.trials}", str(part.failed or ""))
        table.add_row(part.sweep, purpose, part.state, *counts)
    console.print(table)
    for name, choice in progress.chosen.items():
        print_line(console, sanitize(f"{name}: {describe_choice(choice)}"))
    if progress.state == "interrupted":
        print_line(console, f"resume: {resume_command(store, comparison.name)}")
    elif progress.state == "finished":
        print_line(console, f"tables: {program_name()} report {comparison.name}{store.option}")


def comparisons_table(progresses: Sequence[Progress], console: Console) -> None:
    """Print a line for each comparison of a store."""
    table = Table(title=None)
    for column in ("comparison", "state", "methods"):
        table.add_column(column, overflow="fold")
    for progress in progresses:
        table.add_row(progress.comparison, _summarize(progress), ", ".join(progress.methods))
    console.print(table)


def watch_comparison(
    store: Store,
    comparison: Comparison,
    console: Console,
    follow: Callable[[str], None],
    wait: Callable[[float], None],
) -> None:
    """Follow the sweeps of a comparison until it ends, then print its state.

    Args:
        store: The store.
        comparison: The comparison.
        console: Output.
        follow: Shows the sweep of a name until its end.
        wait: Waits for the given seconds.
    """
    while (progress := read_progress(store, comparison)).state == RUNNING:
        if not progress.running:
            wait(PERIOD_S)
            continue
        place = [part.sweep for part in progress.parts].index(progress.running) + 1
        position = f"sweep {place} of {len(progress.parts)}"
        print_line(console, f"{progress.comparison}: {position}, {_summarize(progress)}")
        follow(progress.running)
    show_comparison(store, Comparison.open(store, comparison.name), False, console)


def write_comparison(
    store: Store, comparison: Comparison, to: Path | None, console: Console
) -> None:
    """Write the tables of a comparison, and print the commands for the pages of its sweeps.

    Args:
        store: The store.
        comparison: The comparison.
        to: Target file of the tables in Markdown; None for `comparison.md` in the store.
        console: Output.

    Raises:
        ConfigurationError: No training over seeds has ended, or the target is another file.
        PreflightError: The target cannot be written.
    """
    from orchestrator.sweep.comparison import page
    from orchestrator.sweep.comparison.inference_cost import measure_inference
    from orchestrator.sweep.comparison.lifecycle import write_result
    from orchestrator.sweep.comparison.result import describe_unfinished, open_seed_sweeps, result

    sweeps = [sweep for _, sweep in open_seed_sweeps(store, comparison)]
    if not any(sweep.count_ended() for sweep in sweeps):
        raise ConfigurationError(
            f"{comparison.name!r} has no training over seeds that has ended: see "
            f"`{program_name()} status {comparison.name}{store.option}`"
        ).with_details("name", comparison.name, "a comparison with trainings over seeds")
    if read_progress(store, comparison).state in ENDED:
        with comparison.hold():
            measure_inference(store, comparison)  # an earlier version did not
    outcome = result(store, comparison, describe_unfinished(comparison, sweeps))
    if to is None:
        reason = write_result(store, comparison, outcome)
        logged = f"not logged: {reason}" if reason else f"logged to the run {sweeps[0].name}"
        lines = [f"report: {comparison.folder / 'comparison.md'}", logged]
    else:
        target = read_path(to, "--to")
        _write_page(target, page.markdown(outcome))
        lines = [f"report: {target}"]
    existing = store.sweeps()
    for line in (
        *page.list_conclusions(outcome),
        *lines,
        *(
            f"page of a sweep: {program_name()} report {name}{store.option}"
            for name in comparison.sweeps
            if name in existing
        ),
    ):
        print_line(console, sanitize(line))


def _write_page(target: Path, text: str) -> None:
    """Write a page to a new file, or replace an earlier page of the same comparison."""
    title = text.split(":", 1)[0]
    try:
        if target.exists() and not target.read_text(encoding="utf-8").startswith(f"{title}:"):
            raise ConfigurationError(
                f"--to {target} exists and is not an earlier page of this comparison, so it is not "
                f"replaced: give another name"
            ).with_details("--to", str(target), "a new file, or an earlier page")
        if not target.parent.is_dir():
            raise ConfigurationError(
                f"--to {target}: the folder {target.parent} does not exist: create it, or give a "
                f"file in another folder"
            ).with_details("--to", str(target), "a file in a folder that exists")
        write_text(target, text)
    except (OSError, UnicodeDecodeError) as error:
        raise PreflightError(
            f"--to {target} cannot be written ({error}): give another file"
        ).with_details("--to", str(target), "a file that can be written") from error


def resume_command(store: Store, name: str) -> str:
    """Return the command that continues a comparison."""
    return f"{program_name()} compare --resume {name}{store.option}"


def _summarize(progress: Progress) -> str:
    """Return the state and the counts of trials, with the expected end."""
    failed = f", {progress.failed} failed" if progress.failed else ""
    text = f"{progress.state}, {progress.ended} of {progress.trials} trials{failed}"
    if progress.left_s is None:
        return text
    end = datetime.now() + timedelta(seconds=progress.left_s)
    return f"{text}, expected end {end:%Y-%m-%d %H:%M}"
