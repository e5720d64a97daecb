"""Test watching a sweep: changes come only from its records, and nothing is written.

No process trains here: the `wait` between two reads acts as the driver.
"""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from rich.console import Console
from rich.text import Text

from orchestrator.cli.watch import PERIOD_S, watch
from orchestrator.config.loader import load
from orchestrator.reporting.terminal.progress import Display
from orchestrator.store import run_lock
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store, write_json
from tests.refusal import refused

Driver = Callable[[Sweep], None]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    configuration = load(None, ["search.trials=3", "search.methods=[kd, ttm]", "training.epochs=4"])
    return Sweep.create(Store.open(tmp_path).sweep("mine"), configuration, "sweep")


@pytest.fixture
def lock_held(sweep: Sweep) -> Iterator[None]:
    with sweep.hold():
        yield


def watch_steps(sweep: Sweep, *steps: Driver, once: bool = False, terminal: bool = False) -> str:
    """Return the output while the driver does these steps, one between two reads.

    No read follows the last step.
    """
    remaining_steps = list(steps)

    def wait(wait_s: float) -> None:
        assert wait_s >= PERIOD_S
        remaining_steps.pop(0)(sweep)

    console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
    assert watch("mine", sweep.folder.parents[1], once, console, wait) == 0
    assert not remaining_steps
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def trial(number: int, state: str, *history: float, **more: object) -> Driver:
    """Return a step in which the driver writes the record of a trial."""
    record = Trial(
        number,
        {"temperature": 2.0},
        state=state,  # type: ignore[arg-type]
        epochs=len(history),
        history=[*history],
        **more,  # type: ignore[arg-type]
    )
    record.value = history[-1] if history else None
    return lambda sweep: sweep.save_trial(record)


def end_with_state(state: str) -> Driver:
    def end(sweep: Sweep) -> None:
        sweep.state, sweep.seconds = state, 12.0
        sweep.save()

    return end


def write_notes(**texts: float) -> Driver:
    """Return a step that stores notes with their times."""

    def note(sweep: Sweep) -> None:
        sweep.notes = [{"time": when, "text": text} for text, when in texts.items()]
        sweep.save()

    return note


def modification_times(sweep: Sweep) -> dict[str, int]:
    """Return the modification time of every file and folder of the store."""
    return {
        path.as_posix(): path.stat().st_mtime_ns
        for path in sweep.folder.parents[1].rglob("*")
        if path.name != run_lock.HEARTBEAT_FILE
    }


def write_stale_heartbeat(sweep: Sweep) -> None:
    """Write the heartbeat file of a local process that was killed after ten seconds."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    now, file = time.time(), sweep.folder / run_lock.HEARTBEAT_FILE
    write_json(file, {"host": os.uname().nodename, "pid": process.pid, "since": now - 30})
    os.utime(file, (now - 20, now - 20))


@pytest.mark.usefixtures("lock_held")
def test_changes_are_printed_once_and_the_summary_at_the_end(sweep: Sweep) -> None:
    trial(0, "complete", 0.1, 0.2, 0.3, 0.4)(sweep)
    trial(1, "running", 0.5)(sweep)
    second = trial(1, "complete", 0.5, 0.6, 0.7, 0.8)
    output = watch_steps(
        sweep,
        trial(1, "running", 0.5, 0.6),
        second,
        trial(2, "failed", message="not finite"),
        end_with_state("finished"),
    )
    lines = output.splitlines()
    assert lines[0].startswith("mine: 1 complete, 1 running, 0 stopped early, 0 failed, of 3; ")
    assert lines[1:3] == [
        "best: trial 0 at 0.4000 with temperature=2",
        "running: trial 1, 1 of 4 epochs (0.5000)",
    ]
    assert lines[3].startswith(
        "trial 1 complete after 4 epochs, validation/accuracy 0.8000 [2 complete"
    )
    assert lines[4] == "best so far: trial 1 at 0.8000 with temperature=2"
    assert lines[5].startswith(
        "trial 2 failed after 0 epochs: not finite [2 complete, 0 running, 0 stopped early, 1 "
        "failed, of 3"
    )
    assert "mine: finished after 12 s" in lines[6], (
        "changes must be printed once, and trial 0 had ended before"
    )
    assert f"open MLflow: python run.py ui --store {sweep.folder.parents[1]}" in lines


@pytest.mark.usefixtures("lock_held")
def test_notes_are_printed_once_before_the_first_trial(sweep: Sweep) -> None:
    write_notes(early=1)(sweep)
    output = watch_steps(
        sweep,
        trial(0, "running"),
        write_notes(early=1, waits=2),
        write_notes(waits=2, goes_on=3),
        end_with_state("failed"),
    )
    assert output.startswith("mine: waiting for the first trial\nnote: waits\nnote: goes_on\n"), (
        "a new note must be printed even if an old one was dropped"
    )


@pytest.mark.usefixtures("lock_held")
def test_copied_parameters_and_trial_notes_are_printed(sweep: Sweep) -> None:
    change = [{"source": 1, "epoch": 1, "params": {"temperature": 3.0}}]
    output = watch_steps(
        sweep,
        trial(0, "running", 0.1),
        trial(0, "running", 0.1, changes=change, notes=["the cache is full"]),
        trial(0, "running", 0.1, 0.2, changes=change, notes=["the cache is full"]),
        end_with_state("interrupted"),
    )
    assert (
        "trial 0 copies the weights of trial 1 after epoch 1: temperature=3\n"
        "note: the cache is full\n" in output
    )
    assert f"resume: python run.py sweep --resume mine --store {sweep.folder.parents[1]}" in output


@pytest.mark.usefixtures("lock_held")
def test_once_shows_the_current_state_also_in_a_terminal(sweep: Sweep) -> None:
    for number in range(10):
        trial(number, "running")(sweep)
    assert "running: trial 0, 0 of 4 epochs; trial 1, 0 of 4 epochs;" in (
        output := watch_steps(sweep, once=True)
    )
    assert output.rstrip().endswith("trial 7, 0 of 4 epochs; and 2 more")
    assert "of 3; " in watch_steps(sweep, once=True, terminal=True)


@pytest.mark.usefixtures("lock_held")
def test_terminal_shows_one_frame_and_then_the_summary(sweep: Sweep) -> None:
    output = watch_steps(sweep, trial(0, "running", 0.5), end_with_state("finished"), terminal=True)
    assert (
        "running: trial 0, 1 of 4 epochs (0.5000)" in output
        and "mine: finished after 12 s" in output
    )


@pytest.mark.usefixtures("lock_held")
def test_elapsed_time_advances_in_a_terminal_without_events(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[Display] = []
    frame = Display.frame

    def record_frame(display: Display) -> Text:
        frames.append(display)
        return frame(display)

    monkeypatch.setattr(Display, "frame", record_frame)
    watch_steps(sweep, end_with_state("finished"), terminal=True)
    once = len(frames)
    sweep.state = "running"
    sweep.save()
    watch_steps(sweep, lambda _: None, lambda _: None, end_with_state("finished"), terminal=True)
    assert len(frames) == 2 * once + 2


@pytest.mark.usefixtures("lock_held")
def test_ctrl_c_stops_watching_but_not_the_sweep(sweep: Sweep) -> None:
    def interrupted(_: Sweep) -> NoReturn:
        raise KeyboardInterrupt

    output = watch_steps(sweep, interrupted)
    assert (
        f"stopped watching; mine continues; watch again: python run.py watch mine --store "
        f"{sweep.folder.parents[1]}\n" in output
    )


def test_killed_driver_is_detected_and_the_resume_command_printed(sweep: Sweep) -> None:
    with sweep.hold():
        output = watch_steps(sweep, trial(0, "running", 0.5), write_stale_heartbeat)
    assert "mine: interrupted after 10 s" in output
    assert f"resume: python run.py sweep --resume mine --store {sweep.folder.parents[1]}" in output


def test_driver_on_another_host_is_alive_while_its_heartbeat_is_recent(sweep: Sweep) -> None:
    file = sweep.folder / run_lock.HEARTBEAT_FILE
    now = time.time()
    write_json(file, {"host": "elsewhere", "pid": 1, "since": now - 100})
    os.utime(file, (now - 5, now - 5))
    assert ", of 3; 100 s elapsed" in watch_steps(sweep, once=True)
    os.utime(file, (now - run_lock.HEARTBEAT_TIMEOUT_S - 5,) * 2)
    assert "mine: interrupted after 35 s" in watch_steps(sweep)


def test_new_sweep_without_a_heartbeat_is_running(sweep: Sweep) -> None:
    assert watch_steps(sweep, end_with_state("failed")).startswith(
        "mine: waiting for the first trial\n"
    )
    sweep.state, sweep.started = "running", time.time() - 60
    sweep.save()
    assert "mine: interrupted after 12 s" in watch_steps(sweep)


def test_watching_writes_nothing_and_takes_no_lock(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> NoReturn:
        raise AssertionError("watching must not take the lock")

    write_stale_heartbeat(sweep)
    trial(0, "running", 0.5)(sweep)
    (sweep.folder / run_lock.LOCK).unlink(missing_ok=True)
    monkeypatch.setattr(run_lock, "_lock", fail)
    before = modification_times(sweep)
    watch_steps(sweep)
    watch_steps(sweep, once=True)
    assert modification_times(sweep) == before


def test_unknown_name_or_store_is_refused(sweep: Sweep, tmp_path: Path) -> None:
    with refused("name", "min", ("mine",)) as refusal:
        watch("min", tmp_path, once=True)
    assert "did you mean 'mine'" in str(refusal.value)
    with refused("--store", str(tmp_path / "none"), "the store of an earlier run"):
        watch("mine", tmp_path / "none", once=True)
    assert not (tmp_path / "none").exists()
