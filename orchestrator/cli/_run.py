"""Start, resume and finish a sweep or a training for the commands that run one."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestrator.config.schema import Configuration
from orchestrator.core import errors
from orchestrator.core.errors import PreflightError
from orchestrator.core.privacy import sanitize
from orchestrator.core.program import program_name
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep.runs import (
    create_run,
    describe_run,
    execute_run,
    has_unfinished_trials,
    prepare_resume,
    ray_in_background,
    resolve_run,
)

if TYPE_CHECKING:
    from orchestrator.sweep.preflight.prepared import Prepared

console = Console()


def start_run(
    store: Store,
    configuration: Configuration,
    kind: str,
    name: str | None,
    dry_run: bool,
    local_processes: int,
) -> int:
    """Check, create and run a new sweep or training; return the exit code.

    Args:
        store: The store that holds the run.
        configuration: The settings of the run.
        kind: "sweep" or "train".
        name: Name of the run; None for the default name.
        dry_run: Show the plan and stop.
        local_processes: Number of processes that train without Ray, 1 for this one; 0 with Ray.
    """
    configuration, folder = resolve_run(store, configuration, kind, name, local_processes)
    if dry_run:
        from orchestrator.sweep.preflight.preflight import show_plan

        show_plan(store, configuration, kind, local_processes, console)
        return errors.OK
    _print_first_line(folder.name, configuration, kind)
    with contextlib.ExitStack() as background:
        try:
            background.enter_context(ray_in_background(configuration, local_processes))
            sweep, prepared = create_run(
                store, configuration, folder, kind, local_processes, print_note
            )
        except KeyboardInterrupt:
            return _print_interruption(store, None, local_processes)
        return _run_and_print(store, sweep, prepared, local_processes, resume=False)


def resume_run(
    store: Store,
    name: str,
    trials: int | None,
    time_budget_s: float | None,
    file: Path | None,
    address: str | None = None,
    pairs: Sequence[str] = (),
    local_processes: int = 0,
) -> int:
    """Resume a sweep or a training; return the exit code."""
    sweep = Sweep.open(store, name)
    _print_first_line(name, sweep.configuration, sweep.kind)
    with contextlib.ExitStack() as background:
        try:
            if sweep.count_ended() < (trials or sweep.num_trials):
                background.enter_context(
                    ray_in_background(sweep.configuration, local_processes, address)
                )
            prepared = prepare_resume(
                store,
                sweep,
                print_note,
                trials,
                time_budget_s,
                file,
                address,
                pairs,
                local_processes,
            )
        except KeyboardInterrupt:
            return _print_interruption(store, name, local_processes)
        return _run_and_print(store, sweep, prepared, local_processes, resume=True)


def _print_first_line(name: str, configuration: Configuration, kind: str) -> None:
    """Print what is checked, before the import of torch, which takes seconds."""
    print_line(console, sanitize(f"checking {describe_run(name, configuration, kind)}"))


def print_note(text: str) -> None:
    """Print a note about behaviour that the user may not expect."""
    print_line(console, sanitize(f"note: {text}"))


def _resume_command(store: Store, name: str, local_processes: int) -> str:
    """Return the command that continues a run, with Ray or without it as before."""
    options = " --local" if local_processes else ""
    if local_processes > 1:
        options += f" --processes {local_processes}"
    return f"{program_name()} sweep --resume {name}{options}{store.option}"


def _print_interruption(store: Store, name: str | None, local_processes: int) -> int:
    """Print how to resume or restart an interrupted run; return the exit code."""
    console.print()
    if name is None:
        console.print(
            "interrupted before the sweep started: there is nothing to resume, start it again",
            highlight=False,
        )
    else:
        print_line(console, f"interrupted; resume: {_resume_command(store, name, local_processes)}")
    return errors.INTERRUPTED


def _run_and_print(
    store: Store, sweep: Sweep, prepared: "Prepared", local_processes: int, resume: bool
) -> int:
    """Run a sweep or a training, and print its progress and summary; return the exit code."""
    from orchestrator.reporting.terminal.progress import costs, summary

    try:
        display = execute_run(store, sweep, prepared, console, local_processes, resume)
    except KeyboardInterrupt:  # before the sweep started, or after it ended
        return _print_interruption(store, sweep.name, local_processes)
    except PreflightError as error:
        if sweep.state != "interrupted":
            raise
        again = _resume_command(store, sweep.name, local_processes)
        raise PreflightError.from_error(
            error, f"{error}; then resume the unfinished trials: {again}"
        ) from error
    if sweep.kind == "train":
        costs(display, console)
    summary(sweep, console, list_next_commands(sweep, store, local_processes))
    if sweep.state == "interrupted":
        return errors.INTERRUPTED
    return errors.OK if sweep.state == "finished" else errors.NO_USABLE_TRIAL


def list_next_commands(sweep: Sweep, store: Store, local_processes: int = 0) -> dict[str, str]:
    """Return the commands that are useful after the end of a run, by their purpose."""
    commands = {
        "status": f"{program_name()} status {sweep.name}{store.option}",
        "open MLflow": f"{program_name()} ui{store.option}",
    }
    if sweep.state == "interrupted" or (sweep.state == "failed" and has_unfinished_trials(sweep)):
        commands["resume"] = _resume_command(store, sweep.name, local_processes)
    return commands
