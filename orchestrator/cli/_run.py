"""Begin, resume and finish a sweep or a training for the commands that start one."""

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
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store

if TYPE_CHECKING:
    from orchestrator.sweep.preflight.preflight import Prepared

console = Console()


def begin_run(
    store: Store,
    configuration: Configuration,
    kind: str,
    name: str | None,
    dry_run: bool,
    local: bool,
) -> int:
    """Check, create and conduct a new sweep or training; return the exit code.

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
    found = None
    try:
        prepared = prepare_run(store, configuration, kind, local, print_note)
        for sentence in describe_yielded(configuration, kind):
            print_note(sentence)
        found = Sweep.create(
            folder,
            prepared.configuration,
            kind,
            describe_sweep(prepared.configuration, kind, prepared.data),
        )
        if prepared.note:
            _tell(found, prepared.note)
    except KeyboardInterrupt:
        return _interrupted(store, found)
    return _conduct(store, found, prepared, local, resume=False)


def default_name(configuration: Configuration, kind: str) -> str:
    """Return the default name of a run: the method and the time.

    A search over several methods is named by its project.
    """
    methods = searched_methods(configuration) if kind == "sweep" else (configuration.method.name,)
    what = (
        methods[0]
        if len(methods) == 1
        else re.sub(r"[^A-Za-z0-9]+", "-", configuration.project).strip("-") or "sweep"
    )
    return f"{what}-{datetime.now():%Y%m%d-%H%M%S}"


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

    found = Sweep.open(store, name)
    found.configuration = change_configuration(found, trials, time_budget_s, file, address, pairs)
    note = ""
    if found.kind == "sweep":
        found.configuration, note = limit_trials(
            found.configuration, num_existing=len(found.trials)
        )
    require_same(found, described_space(found.configuration, found.kind))
    try:
        prepared = prepare_run(store, found.configuration, found.kind, local=False, note=print_note)
        now = describe_sweep(prepared.configuration, found.kind, prepared.data)
        require_same(found, now)
        carry_teacher_over(store, found.folder, prepared.configuration, prepared.data)
    except KeyboardInterrupt:
        return _interrupted(store, found)
    found.described = found.described | now
    if note:
        _tell(found, note)
    return _conduct(store, found, prepared, local=False, resume=True)


def print_note(text: str) -> None:
    """Print a note about behaviour that the user may not expect."""
    console.print(sanitize(f"note: {text}"), markup=False, highlight=False, soft_wrap=True)


def _tell(found: Sweep, note: str) -> None:
    """Print a deviation from the request, and record it with the sweep."""
    from orchestrator.sweep.events import Events

    print_note(note)
    Events(found, []).note(note)


def _interrupted(store: Store, found: Sweep | None) -> int:
    """Print how to resume or restart an interrupted run; return the exit code."""
    console.print()
    if found is None:
        console.print(
            "interrupted before the sweep began: there is nothing to go on with, start it again",
            highlight=False,
        )
    else:
        resume = f"python run.py sweep --resume {found.name}{store.option}"
        console.print(
            f"interrupted; resume: {resume}", markup=False, highlight=False, soft_wrap=True
        )
    return errors.INTERRUPTED


def _conduct(store: Store, found: Sweep, prepared: "Prepared", local: bool, resume: bool) -> int:
    from orchestrator.export.export import export_program
    from orchestrator.reporting.terminal.progress import Display, costs, summary
    from orchestrator.sweep.driver import run_sweep
    from orchestrator.sweep.provenance import keep

    try:
        keep(found.folder, prepared.data)
        with Display(found, console) as display:
            run_sweep(
                found,
                store,
                prepared.data,
                prepared.teacher_access,
                display,
                local,
                resume,
                ship=partial(export_program, store, found.name),
            )
    except KeyboardInterrupt:  # before the sweep began, or after its end
        return _interrupted(store, found)
    except PreflightError as error:
        if found.state != "interrupted":
            raise
        again = f"python run.py sweep --resume {found.name}{store.option}"
        raise PreflightError.from_error(
            error, f"{error}; what was not finished waits: {again}"
        ) from error
    if found.kind == "train":
        costs(display, console)
    summary(found, console, next_commands(found, store))
    if found.state == "interrupted":
        return errors.INTERRUPTED
    return errors.OK if found.state == "finished" else errors.NO_USABLE_TRIAL


def next_commands(found: Sweep, store: Store) -> dict[str, str]:
    """Return the commands that are useful after the end of a run, by their purpose."""
    commands = {
        "status": f"python run.py status {found.name}{store.option}",
        "open MLflow": f"python run.py ui{store.option}",
    }
    if found.state == "interrupted" or (found.state == "failed" and _left(found)):
        commands["resume"] = f"python run.py sweep --resume {found.name}{store.option}"
    return commands


def _left(found: Sweep) -> bool:
    """Return whether a sweep has trials that have not ended."""
    ended = sum(trial.ended for trial in found.trials.values())
    return found.kind == "sweep" and ended < found.configuration.search.trials
