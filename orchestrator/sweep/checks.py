"""Check a run before its record changes, in a child process if this one needs no torch."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config.declarations import Declarations, collect, receive
from orchestrator.config.schema import Configuration
from orchestrator.config.yielding import describe_yielded
from orchestrator.core.child_process import call_in_child
from orchestrator.core.signals import defer_signals
from orchestrator.extensions.loading import loaded_files, loaded_plugins
from orchestrator.extensions.record import CODE, require_code
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store

if TYPE_CHECKING:
    from orchestrator.sweep.preflight.prepared import Prepared

Note = Callable[[str], None]


@dataclass(frozen=True)
class CheckedRun:
    """Run that may start.

    Attributes:
        prepared: The start values.
        configuration: The configuration of its record.
        described: The search space and the data in words, for its record.
    """

    prepared: "Prepared"
    configuration: Configuration
    described: dict[str, Any]


Check = Callable[[Note], CheckedRun]


def run_check(check: Check, kind: str, local_processes: int, note: Note) -> CheckedRun:
    """Return the result of a check.

    A child process checks, and this one imports the libraries of Ray meanwhile. It then has no
    torch, which takes two seconds and 500 MiB. The check runs here if this process has torch
    already, will train, or has loaded user code.

    Args:
        check: A function of this module with its first arguments.
        kind: "sweep" or "train".
        local_processes: Number of processes that train without Ray, 1 for this one; 0 with Ray.
        note: Receives messages about behaviour that the user may not expect.
    """
    if local_processes or "torch" in sys.modules or loaded_files() or loaded_plugins():
        with defer_signals():  # libraries do not survive an interrupted import
            import orchestrator.sweep.preflight.preflight
            import orchestrator.sweep.space_snapshot  # noqa: F401
        return check(note)
    with _importing_driver(kind):
        checked, declarations = call_in_child(partial(_check_and_collect, check, kind), note)
    receive(declarations)
    return checked


def _check_and_collect(check: Check, kind: str, note: Note) -> tuple[CheckedRun, Declarations]:
    """Return the result of a check, and what the driver needs of the methods and networks."""
    checked = check(note)
    return checked, collect(checked.configuration, kind)


@contextlib.contextmanager
def _importing_driver(kind: str) -> Iterator[None]:
    """Import what the driver of a run needs next while the block waits; finish at its end."""
    thread = threading.Thread(target=_import_driver, args=(kind,), name="import", daemon=True)
    thread.start()
    yield
    thread.join()


def _import_driver(kind: str) -> None:
    """Import the modules of the driver; the main thread imports them again and raises errors."""
    with contextlib.suppress(ImportError):
        import orchestrator.cluster.groups
        import orchestrator.reporting.terminal.progress
        import orchestrator.sweep._watchdog
        import orchestrator.sweep.driver

        if kind == "sweep":
            import orchestrator.sweep._tune_runner  # noqa: F401


def check_new(
    store: Store, configuration: Configuration, kind: str, local_processes: int, note: Note
) -> CheckedRun:
    """Check a new run, and prepare its data.

    Args:
        store: The store that holds the run.
        configuration: The settings, from `resolve_run`.
        kind: "sweep" or "train".
        local_processes: Number of processes that train without Ray, 1 for this one; 0 with Ray.
        note: Receives messages about behaviour that the user may not expect.
    """
    from orchestrator.sweep.preflight.preflight import prepare_run
    from orchestrator.sweep.space_snapshot import describe_sweep

    prepared = prepare_run(store, configuration, kind, local_processes, note)
    for sentence in describe_yielded(configuration, kind):
        note(sentence)
    described = describe_sweep(prepared.configuration, kind, prepared.data)
    return CheckedRun(prepared, prepared.configuration, described)


def check_resume(
    store: Store,
    sweep: Sweep,
    trials: int | None,
    time_budget_s: float | None,
    file: Path | None,
    address: str | None,
    pairs: Sequence[str],
    local_processes: int,
    subject: str,
    note: Note,
) -> CheckedRun:
    """Check that a run can be resumed and that its results are determined as before.

    The arguments are those of `prepare_resume`; the sweep gets the new configuration.
    """
    from orchestrator.config.distinct import limit_trials
    from orchestrator.sweep.changed_configuration import change_configuration, require_same
    from orchestrator.sweep.preflight.preflight import prepare_run
    from orchestrator.sweep.space_snapshot import describe_sweep, described_space
    from orchestrator.teacher.moved import carry_teacher_over

    require_code(sweep.described.get(CODE, {}), subject, sweep.configuration)
    sweep.configuration = change_configuration(
        sweep, trials, time_budget_s, file, address, pairs, subject
    )
    reduced = ""
    if sweep.kind == "sweep":
        sweep.configuration, reduced = limit_trials(
            sweep.configuration, num_existing=len(sweep.trials)
        )
    require_same(sweep, described_space(sweep.configuration, sweep.kind), subject)
    prepared = prepare_run(store, sweep.configuration, sweep.kind, local_processes, note)
    snapshot = describe_sweep(prepared.configuration, sweep.kind, prepared.data)
    require_same(sweep, snapshot, subject)
    carry_teacher_over(store, sweep.folder, prepared.configuration, prepared.data)
    described = sweep.described | snapshot
    return CheckedRun(replace(prepared, note=reduced), sweep.configuration, described)
