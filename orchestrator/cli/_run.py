"""Start, resume and finish a sweep or a training for the commands that run one."""

import re
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestrator.config.path_settings import resolve_paths
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import searched_methods, with_single_method
from orchestrator.config.yielding import describe_yielded
from orchestrator.core import errors
from orchestrator.core.errors import PreflightError
from orchestrator.core.privacy import sanitize
from orchestrator.core.program import program_name
from orchestrator.extensions.record import CODE, require_code
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store

if TYPE_CHECKING:
    from orchestrator.sweep.preflight.preflight import Prepared

console = Console()


def start_run(
    store: Store,
    configuration: Configuration,
    kind: str,
    name: str | None,
    dry_run: bool,
    local: bool,
) -> int:
    """Check, create and run a new sweep or training; return the exit code.

    Every check that can refuse the run comes before its record is created.

    Args:
        store: The store that holds the run.
        configuration: The settings of the run.
        kind: "sweep" or "train".
        name: Name of the run; None for the default name.
        dry_run: Show the plan and stop.
        local: Train in this process, without Ray.
    """
    from orchestrator.sweep.preflight.preflight import prepare_run, show_plan
    from orchestrator.sweep.space_snapshot import describe_sweep

    if kind == "sweep":
        configuration = with_single_method(configuration)
    configuration = resolve_paths(configuration, local)
    folder = store.sweep(name or default_name(configuration, kind))
    Sweep.require_new(folder, store.option)
    if dry_run:
        show_plan(store, configuration, kind, local, console)
        return errors.OK
    sweep = None
    try:
        prepared = prepare_run(store, configuration, kind, local, print_note)
        for sentence in describe_yielded(configuration, kind):
            print_note(sentence)
        sweep = Sweep.create(
            folder,
            prepared.configuration,
            kind,
            describe_sweep(prepared.configuration, kind, prepared.data),
        )
        if prepared.note:
            _print_and_record_note(sweep, prepared.note)
    except KeyboardInterrupt:
        return _print_interruption(store, sweep)
    return _run_and_print(store, sweep, prepared, local, resume=False)


def default_name(configuration: Configuration, kind: str) -> str:
    """Return the default name of a run: the method and the time.

    A search over several methods is named by its project.
    """
    methods = searched_methods(configuration) if kind == "sweep" else (configuration.method.name,)
    if len(methods) == 1:
        prefix = methods[0].replace("/", "-")
    else:
        prefix = re.sub(r"[^A-Za-z0-9]+", "-", configuration.project).strip("-") or "sweep"
    return f"{prefix}-{datetime.now():%Y%m%d-%H%M%S}"


def resume_run(
    store: Store,
    name: str,
    trials: int | None,
    time_budget_s: float | None,
    file: Path | None,
    address: str | None = None,
    pairs: Sequence[str] = (),
) -> int:
    """Resume a sweep or a training; return the exit code."""
    from orchestrator.config.distinct import limit_trials
    from orchestrator.sweep.changed_configuration import change_configuration, require_same
    from orchestrator.sweep.preflight.preflight import prepare_run
    from orchestrator.sweep.space_snapshot import describe_sweep, described_space
    from orchestrator.teacher.moved import carry_teacher_over

    sweep = Sweep.open(store, name)
    require_code(sweep.described.get(CODE, {}), f"--resume {name}", sweep.configuration)
    sweep.configuration = change_configuration(sweep, trials, time_budget_s, file, address, pairs)
    note = ""
    if sweep.kind == "sweep":
        sweep.configuration, note = limit_trials(
            sweep.configuration, num_existing=len(sweep.trials)
        )
    require_same(sweep, described_space(sweep.configuration, sweep.kind))
    try:
        prepared = prepare_run(store, sweep.configuration, sweep.kind, local=False, note=print_note)
        snapshot = describe_sweep(prepared.configuration, sweep.kind, prepared.data)
        require_same(sweep, snapshot)
        carry_teacher_over(store, sweep.folder, prepared.configuration, prepared.data)
    except KeyboardInterrupt:
        return _print_interruption(store, sweep)
    sweep.described = sweep.described | snapshot
    if note:
        _print_and_record_note(sweep, note)
    return _run_and_print(store, sweep, prepared, local=False, resume=True)


def print_note(text: str) -> None:
    """Print a note about behaviour that the user may not expect."""
    print_line(console, sanitize(f"note: {text}"))


def _print_and_record_note(sweep: Sweep, note: str) -> None:
    """Print a deviation from the request, and record it with the sweep."""
    from orchestrator.sweep.events import Events

    print_note(note)
    Events(sweep, []).note(note)


def _print_interruption(store: Store, sweep: Sweep | None) -> int:
    """Print how to resume or restart an interrupted run; return the exit code."""
    console.print()
    if sweep is None:
        console.print(
            "interrupted before the sweep started: there is nothing to resume, start it again",
            highlight=False,
        )
    else:
        resume = f"{program_name()} sweep --resume {sweep.name}{store.option}"
        print_line(console, f"interrupted; resume: {resume}")
    return errors.INTERRUPTED


def _run_and_print(
    store: Store, sweep: Sweep, prepared: "Prepared", local: bool, resume: bool
) -> int:
    """Run a sweep or a training, and print its progress and summary; return the exit code."""
    from orchestrator.export.export import export_program
    from orchestrator.reporting.terminal.progress import Display, costs, summary
    from orchestrator.sweep.driver import run_sweep
    from orchestrator.sweep.provenance import keep

    try:
        keep(sweep.folder, prepared.data)
        with Display(sweep, console) as display:
            run_sweep(
                sweep,
                store,
                prepared.data,
                prepared.teacher_access,
                display,
                local,
                resume,
                ship=partial(export_program, store, sweep.name),
            )
    except KeyboardInterrupt:  # before the sweep started, or after it ended
        return _print_interruption(store, sweep)
    except PreflightError as error:
        if sweep.state != "interrupted":
            raise
        again = f"{program_name()} sweep --resume {sweep.name}{store.option}"
        raise PreflightError.from_error(
            error, f"{error}; then resume the unfinished trials: {again}"
        ) from error
    if sweep.kind == "train":
        costs(display, console)
    summary(sweep, console, list_next_commands(sweep, store))
    if sweep.state == "interrupted":
        return errors.INTERRUPTED
    return errors.OK if sweep.state == "finished" else errors.NO_USABLE_TRIAL


def list_next_commands(sweep: Sweep, store: Store) -> dict[str, str]:
    """Return the commands that are useful after the end of a run, by their purpose."""
    commands = {
        "status": f"{program_name()} status {sweep.name}{store.option}",
        "open MLflow": f"{program_name()} ui{store.option}",
    }
    if sweep.state == "interrupted" or (sweep.state == "failed" and _has_unfinished_trials(sweep)):
        commands["resume"] = f"{program_name()} sweep --resume {sweep.name}{store.option}"
    return commands


def _has_unfinished_trials(sweep: Sweep) -> bool:
    """Return whether a sweep has trials that have not ended."""
    ended = sum(trial.ended for trial in sweep.trials.values())
    return sweep.kind == "sweep" and ended < sweep.configuration.search.trials
