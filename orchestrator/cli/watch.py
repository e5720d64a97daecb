"""Watch a sweep through its records, from another terminal or another node.

Watching writes nothing and takes no lock.
"""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from orchestrator.cli._run import next_commands
from orchestrator.core import errors
from orchestrator.reporting.terminal.progress import Display, show_damage, summary
from orchestrator.store import run_lock
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store

PERIOD_S = 2.0
# largest share of the time spent on reading: many trials on a slow disk are read less often
SHARE = 0.1
BEGINS_S = 10.0  # a sweep younger than this may not have recorded its driver yet


def watch(
    name: str,
    store: Path | str,
    once: bool,
    console: Console | None = None,
    rest: Callable[[float], None] = time.sleep,
) -> int:
    """Show the progress of a sweep until it ends, then its summary; return the exit code.

    Args:
        name: Name of the sweep.
        store: Folder or URI of the store.
        once: Show the current state and stop.
        console: Output; None for standard output.
        rest: Function that waits for the given seconds.
    """
    console = console or Console()
    opened = Store.existing(store)
    sweep, elapsed_s = _look(opened, name)
    show_damage(sweep, opened.option)
    if sweep.state == "running" and once:
        console.print(Display(sweep, console, elapsed_s).frame(), soft_wrap=True)
        return errors.OK
    try:
        if sweep.state == "running":
            sweep = _follow(opened, sweep, elapsed_s, console, rest)
    except KeyboardInterrupt:
        again = f"python run.py watch {name}{opened.option}"
        console.print(
            f"{name} goes on without you; look again: {again}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return errors.OK
    summary(sweep, console, next_commands(sweep, opened))
    return errors.OK


def _follow(
    store: Store, sweep: Sweep, elapsed_s: float, console: Console, rest: Callable[[float], None]
) -> Sweep:
    """Show the sweep until its driver has ended; return its final state."""
    took_s = 0.0
    with Display(sweep, console, elapsed_s) as display:
        if not sweep.trials:
            display.preparing(f"{sweep.name}: before its first trial")
        elif not display.live:
            console.print(display.frame(), soft_wrap=True)
        display.best = sweep.best()
        while sweep.state == "running":
            rest(max(PERIOD_S, took_s / SHARE))
            began = time.monotonic()
            sweep, _ = _look(store, sweep.name)
            took_s = time.monotonic() - began
            _tell(display, sweep)
    return sweep


def _look(store: Store, name: str) -> tuple[Sweep, float]:
    """Return the sweep from its records, and its driver's uptime in seconds.

    The state is `interrupted` if the record is `running` and no driver is alive.
    """
    sweep = Sweep.open(store, name)
    life = run_lock.driver_status(sweep.folder)
    young = life is None and time.time() - sweep.started < BEGINS_S
    if sweep.state == "running" and not young and not (life and life.alive):
        sweep.state = "interrupted"
        sweep.seconds += life.seconds if life else 0.0
    return sweep, life.seconds if life else 0.0


def _tell(display: Display, sweep: Sweep) -> None:
    """Show the changes since the last read."""
    before, display.sweep = display.sweep, sweep
    # a sweep keeps only the newest notes
    heard = max((note["time"] for note in before.notes), default=0.0)
    for note in sweep.notes:
        if note["time"] > heard:
            display.note(note["text"])
    for number, trial in sorted(sweep.trials.items()):
        known = before.trials.get(number) or Trial(number, {})
        if trial.state != "waiting" and known.state == "waiting":
            display.trial_started(trial)
        if len(trial.changes) > len(known.changes):
            display.trial_changed(trial)
        if trial.epochs > known.epochs:
            display.trial_reported(trial, trial.epochs, trial.metrics)
        if trial.ended and not known.ended:
            display.trial_ended(trial)
    if display.live:
        display.live.update(display.frame())  # the elapsed time advances without events
