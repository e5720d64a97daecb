"""Watch a sweep or a comparison through its records, from another terminal or another node.

Watching writes nothing and takes no lock.
"""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from orchestrator.cli._comparisons import show_comparison, watch_comparison
from orchestrator.cli._names import find_comparison
from orchestrator.cli._run import list_next_commands
from orchestrator.core import errors
from orchestrator.core.program import program_name
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.reporting.terminal.progress import Display, show_damage, summary
from orchestrator.store import run_lock
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep.comparison.record import Comparison

PERIOD_S = 2.0
# maximum share of the time spent reading: many trials on a slow disk are read less often
READ_SHARE = 0.1
STARTUP_S = 10.0  # a sweep younger than this may not have recorded its driver yet


def watch(
    name: str,
    store: Path | str,
    once: bool,
    console: Console | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Show the progress of a sweep or a comparison until it ends; return the exit code.

    Args:
        name: Name of the sweep or the comparison.
        store: Folder or URI of the store.
        once: Show the current state and stop.
        console: Output; None for standard output.
        wait: Function that waits for the given seconds.
    """
    console = console or Console()
    opened = Store.existing(store)
    if comparison := find_comparison(opened, name):
        return _watch_comparison(opened, comparison, once, console, wait)
    sweep, elapsed_s = _read_sweep(opened, name)
    show_damage(sweep, opened.option)
    if sweep.state == "running" and once:
        console.print(Display(sweep, console, elapsed_s).frame(), soft_wrap=True)
        return errors.OK
    try:
        if sweep.state == "running":
            sweep = _follow(opened, sweep, elapsed_s, console, wait)
    except KeyboardInterrupt:
        _print_continuation(opened, name, console)
        return errors.OK
    summary(sweep, console, list_next_commands(sweep, opened))
    return errors.OK


def _watch_comparison(
    store: Store,
    comparison: Comparison,
    once: bool,
    console: Console,
    wait: Callable[[float], None],
) -> int:
    def follow(name: str) -> None:
        sweep, elapsed_s = _read_sweep(store, name)
        _follow(store, sweep, elapsed_s, console, wait)

    if once:
        show_comparison(store, comparison, False, console)
        return errors.OK
    try:
        watch_comparison(store, comparison, console, follow, wait)
    except KeyboardInterrupt:
        _print_continuation(store, comparison.name, console)
    return errors.OK


def _print_continuation(store: Store, name: str, console: Console) -> None:
    watch_command = f"{program_name()} watch {name}{store.option}"
    print_line(console, f"stopped watching; {name} continues; watch again: {watch_command}")


def _follow(
    store: Store, sweep: Sweep, elapsed_s: float, console: Console, wait: Callable[[float], None]
) -> Sweep:
    """Show the sweep until its driver has ended; return its final state."""
    read_s = 0.0
    with Display(sweep, console, elapsed_s) as display:
        if not sweep.trials:
            display.preparing(f"{sweep.name}: waiting for the first trial")
        elif not display.live:
            console.print(display.frame(), soft_wrap=True)
        display.best = sweep.best()
        while sweep.state == "running":
            wait(max(PERIOD_S, read_s / READ_SHARE))
            began = time.monotonic()
            sweep, _ = _read_sweep(store, sweep.name)
            read_s = time.monotonic() - began
            _print_changes(display, sweep)
    return sweep


def _read_sweep(store: Store, name: str) -> tuple[Sweep, float]:
    """Return the sweep from its records, and its driver's uptime in seconds.

    The state is `interrupted` if the record is `running` and no driver is alive.
    """
    sweep = Sweep.open(store, name)
    driver = run_lock.driver_status(sweep.folder)
    is_new = driver is None and time.time() - sweep.started < STARTUP_S
    if sweep.state == "running" and not is_new and not (driver and driver.alive):
        sweep.state = "interrupted"
        sweep.seconds += driver.seconds if driver else 0.0
    return sweep, driver.seconds if driver else 0.0


def _print_changes(display: Display, sweep: Sweep) -> None:
    """Print the changes since the last read."""
    before, display.sweep = display.sweep, sweep
    # a sweep keeps only the newest notes
    newest = max((note["time"] for note in before.notes), default=0.0)
    for note in sweep.notes:
        if note["time"] > newest:
            display.note(note["text"])
    for number, trial in sorted(sweep.trials.items()):
        previous = before.trials.get(number) or Trial(number, {})
        if trial.state != "waiting" and previous.state == "waiting":
            display.trial_started(trial)
        if len(trial.changes) > len(previous.changes):
            display.trial_changed(trial)
        if trial.epochs > previous.epochs:
            display.trial_reported(trial, trial.epochs, trial.metrics)
        if trial.ended and not previous.ended:
            display.trial_ended(trial)
    if display.live:
        display.live.update(display.frame())  # the elapsed time advances without events
