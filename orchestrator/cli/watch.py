"""What `watch` does: look on at a sweep from its records, in another terminal or on another node. Writes nothing, takes no lock."""

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
SHARE = 0.1  # at most, of the time, goes into reading: many trials on a slow disk are looked at less often
BEGINS_S = 10.0  # a sweep that is so young may not have said yet who runs it


def watch(
    name: str, store: Path | str, once: bool, console: Console | None = None, rest: Callable[[float], None] = time.sleep
) -> int:
    """Show how a sweep goes on until it ends, then its summary; with `once` how it stands. `rest` waits so many seconds."""
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
        console.print(f"{name} goes on without you; look again: {again}", markup=False, highlight=False, soft_wrap=True)
        return errors.OK
    summary(sweep, console, next_commands(sweep, opened))
    return errors.OK


def _follow(store: Store, sweep: Sweep, elapsed_s: float, console: Console, rest: Callable[[float], None]) -> Sweep:
    """Look on until nobody runs the sweep any more; how it stands then."""
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
    """The sweep as its records have it, `interrupted` where nobody runs it; for how long its driver has, or had, been at it (s)."""
    sweep = Sweep.open(store, name)
    life = run_lock.driver_status(sweep.folder)
    young = life is None and time.time() - sweep.started < BEGINS_S
    if sweep.state == "running" and not young and not (life and life.alive):
        sweep.state = "interrupted"
        sweep.seconds += life.seconds if life else 0.0
    return sweep, life.seconds if life else 0.0


def _tell(display: Display, sweep: Sweep) -> None:
    """Show what is new since the last look."""
    before, display.sweep = display.sweep, sweep
    heard = max((note["time"] for note in before.notes), default=0.0)  # a sweep keeps the newest alone
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
        display.live.update(display.frame())  # time goes on where nothing happens
