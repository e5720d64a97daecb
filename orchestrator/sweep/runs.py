"""Create, resume and execute a run: the steps that the command line and Python share."""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestrator.config.path_settings import resolve_paths
from orchestrator.config.resources import cluster_address
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import list_methods, with_single_method
from orchestrator.core.debugging import before_breakpoint
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.signals import defer_signals
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep.checks import check_new, check_resume, run_check
from orchestrator.sweep.comparison.record import require_no_comparison

if TYPE_CHECKING:
    from orchestrator.reporting.terminal.progress import Display
    from orchestrator.sweep.preflight.prepared import Prepared


def count_local_processes(local: bool, processes: int | None, option: str, flag: str) -> int:
    """Return the number of processes that train without Ray, 1 for this one; 0 with Ray.

    Args:
        local: Whether to train without Ray.
        processes: The requested number of processes; None for the default.
        option: The option of this number, for messages.
        flag: The option that trains without Ray, for messages.

    Raises:
        ConfigurationError: A number is given for a run with Ray, or it is not positive.
    """
    if processes is None:
        return int(local)
    if not local:
        raise ConfigurationError(
            f"{option}={processes} has an effect only without Ray: add {flag}, or set "
            f"resources.groups for the number of Ray's worker groups"
        ).with_details(option, processes, f"with {flag}")
    if processes < 1:
        raise ConfigurationError(
            f"{option}={processes} is not allowed: give 1, which trains in this process, or more"
        ).with_details(option, processes, (1, None))
    return processes


def resolve_run(
    store: Store, configuration: Configuration, kind: str, name: str | None, local_processes: int
) -> tuple[Configuration, Path]:
    """Return the configuration of a new run with absolute paths, and the folder of the run.

    Args:
        store: The store that holds the run.
        configuration: The settings of the run.
        kind: "sweep" or "train".
        name: Name of the run; None for the default name.
        local_processes: Number of processes that train without Ray, 1 for this one; 0 with Ray.

    Raises:
        ConfigurationError: The name is taken or not allowed.
    """
    if kind == "sweep":
        configuration = with_single_method(configuration)
    configuration = resolve_paths(configuration, bool(local_processes))
    folder = store.sweep(name or default_name(configuration, kind))
    Sweep.require_new(folder, store.option)
    require_no_comparison(store, folder.name)
    return configuration, folder


def default_name(configuration: Configuration, kind: str) -> str:
    """Return the default name of a run: the method and the time.

    A search over several methods is named by its project.
    """
    methods = list_methods(configuration, kind)
    if len(methods) == 1:
        prefix = methods[0].replace("/", "-")
    else:
        prefix = re.sub(r"[^A-Za-z0-9]+", "-", configuration.project).strip("-") or "sweep"
    return f"{prefix}-{datetime.now():%Y%m%d-%H%M%S}"


def describe_run(name: str, configuration: Configuration, kind: str) -> str:
    """Describe a run that has not been checked: its name, its methods and its data."""
    return f"{name}: {', '.join(list_methods(configuration, kind))} on {configuration.data.name}"


@contextlib.contextmanager
def ray_in_background(
    configuration: Configuration, local_processes: int, address: str | None = None
) -> Iterator[None]:
    """Start Ray while the block checks a run, if the run will use a Ray of its own.

    At the end of the block Ray ends if the run was refused.

    Args:
        configuration: The settings of the run.
        local_processes: Number of processes that train without Ray, 1 for this one; 0 with Ray.
        address: Address of the Ray cluster; None keeps that of the configuration.
    """
    resources = configuration.resources
    if address is not None:
        resources = resources.model_copy(update={"address": address or None})
    if local_processes or cluster_address(resources):
        yield
        return
    from orchestrator.cluster.own_cluster import start_early

    with start_early():
        yield


def create_run(
    store: Store,
    configuration: Configuration,
    folder: Path,
    kind: str,
    local_processes: int,
    note: Callable[[str], None],
) -> tuple[Sweep, "Prepared"]:
    """Check a new run, prepare its data and create its record.

    Every check that can refuse the run comes before its record is created.

    Args:
        store: The store that holds the run.
        configuration: The settings, from `resolve_run`.
        folder: The folder of the run.
        kind: "sweep" or "train".
        local_processes: Number of processes that train without Ray, 1 for this one; 0 with Ray.
        note: Receives messages about behaviour that the user may not expect.
    """
    check = partial(check_new, store, configuration, kind, local_processes)
    checked = run_check(check, kind, local_processes, note)
    return Sweep.create(folder, checked.configuration, kind, checked.described), checked.prepared


def prepare_resume(
    store: Store,
    sweep: Sweep,
    note: Callable[[str], None],
    trials: int | None = None,
    time_budget_s: float | None = None,
    file: Path | None = None,
    address: str | None = None,
    pairs: Sequence[str] = (),
    local_processes: int = 0,
    subject: str = "",
) -> "Prepared":
    """Prepare a run to resume it, after a check that its results are determined as before.

    Args:
        store: The store that holds the run.
        sweep: The run.
        note: Receives messages about behaviour that the user may not expect.
        trials: Number of trials; None keeps it.
        time_budget_s: Time limit of the search in seconds; None keeps it.
        file: Configuration file, which must agree with the run.
        address: Address of the Ray cluster; None keeps it.
        pairs: `--set` pairs with the current paths.
        local_processes: Number of processes that train without Ray, 1 for this one; 0 with Ray.
        subject: The option or argument that names the run, the begin of messages; "" for that of
            the command line.
    """
    check = partial(
        check_resume,
        store,
        sweep,
        trials,
        time_budget_s,
        file,
        address,
        pairs,
        local_processes,
        subject or f"--resume {sweep.name}",
    )
    checked = run_check(check, sweep.kind, local_processes, note)
    sweep.configuration, sweep.described = checked.configuration, checked.described
    return checked.prepared


def execute_run(
    store: Store,
    sweep: Sweep,
    prepared: "Prepared",
    console: Console,
    local_processes: int,
    resume: bool,
) -> "Display":
    """Run a sweep or a training with a display of its progress, and return the display.

    Raises:
        KeyboardInterrupt: The user interrupted it before it started, or after it ended. An
            interruption in between is the state of the sweep.
        PreflightError: No worker can train now.
        TrialError: A single training failed.
    """
    with defer_signals():
        from orchestrator.reporting.terminal.progress import Display
        from orchestrator.sweep.driver import run_sweep
        from orchestrator.sweep.events import Events
        from orchestrator.sweep.provenance import keep

    keep(sweep.folder, prepared.data)
    with Display(sweep, console) as display, before_breakpoint(display.leave_terminal):
        if prepared.note:
            Events(sweep, [display]).note(prepared.note)
        run_sweep(
            sweep,
            store,
            prepared.data,
            prepared.teacher_access,
            display,
            local_processes,
            resume,
            facts=prepared.facts,
        )
    return display


def has_unfinished_trials(sweep: Sweep) -> bool:
    """Return whether a sweep has trials that have not ended."""
    return sweep.kind == "sweep" and sweep.count_ended() < sweep.num_trials
