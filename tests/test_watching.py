"""Test watching a sweep: changes come only from its records, nothing is written, ends are noticed.

No process trains here: the wait between two reads acts as the driver.
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
def run_by_us(sweep: Sweep) -> Iterator[None]:
    with sweep.hold():
        yield


def watched(sweep: Sweep, *steps: Driver, once: bool = False, terminal: bool = False) -> str:
    """Return the output while the driver does these steps, one between two reads.

    No read follows the last step.
    """
    left = list(steps)

    def rest(wait_s: float) -> None:
        assert wait_s >= PERIOD_S
        left.pop(0)(sweep)

    console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
    assert watch("mine", sweep.folder.parents[1], once, console, rest) == 0
    assert not left
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def trial(number: int, state: str, *history: float, **more: object) -> Driver:
    """Return a step in which the driver writes the record of a trial."""
    made = Trial(
        number,
        {"temperature": 2.0},
        state=state,  # type: ignore[arg-type]
        epochs=len(history),
        history=[*history],
        **more,  # type: ignore[arg-type]
    )
    made.value = history[-1] if history else None
    return lambda sweep: sweep.save_trial(made)


def ends(state: str) -> Driver:
    def end(sweep: Sweep) -> None:
        sweep.state, sweep.seconds = state, 12.0
        sweep.save()

    return end


def noted(**texts: float) -> Driver:
    """Return a step that stores notes with their times."""

    def note(sweep: Sweep) -> None:
        sweep.notes = [{"time": when, "text": text} for text, when in texts.items()]
        sweep.save()

    return note


def stands(sweep: Sweep) -> dict[str, int]:
    """Return the modification time of every file and folder of the store."""
    return {
        path.as_posix(): path.stat().st_mtime_ns
        for path in sweep.folder.parents[1].rglob("*")
        if path.name != run_lock.HEARTBEAT_FILE
    }


def lost(sweep: Sweep) -> None:
    """Write the heartbeat file of a local process that was killed after ten seconds."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    now, file = time.time(), sweep.folder / run_lock.HEARTBEAT_FILE
    write_json(file, {"host": os.uname().nodename, "pid": process.pid, "since": now - 30})
    os.utime(file, (now - 20, now - 20))


@pytest.mark.usefixtures("run_by_us")
def test_what_is_new_is_told_once_and_the_summary_at_the_end(sweep: Sweep) -> None:
    trial(0, "complete", 0.1, 0.2, 0.3, 0.4)(sweep)
    trial(1, "running", 0.5)(sweep)
    second = trial(1, "complete", 0.5, 0.6, 0.7, 0.8)
    told = watched(
        sweep,
        trial(1, "running", 0.5, 0.6),
        second,
        trial(2, "failed", message="not finite"),
        ends("finished"),
    )
    lines = told.splitlines()
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
        "nothing was told twice, and trial 0 had ended before"
    )
    assert f"open MLflow: python run.py ui --store {sweep.folder.parents[1]}" in lines


@pytest.mark.usefixtures("run_by_us")
def test_a_sweep_that_prepares_has_no_trial_yet(sweep: Sweep) -> None:
    noted(early=1)(sweep)
    told = watched(
        sweep,
        trial(0, "running"),
        noted(early=1, waits=2),
        noted(waits=2, goes_on=3),
        ends("failed"),
    )
    assert told.startswith("mine: before its first trial\nnote: waits\nnote: goes_on\n"), (
        "of a full list too"
    )


@pytest.mark.usefixtures("run_by_us")
def test_what_is_taken_over_and_what_a_training_reaches_is_told(sweep: Sweep) -> None:
    change = [{"source": 1, "epoch": 1, "params": {"temperature": 3.0}}]
    told = watched(
        sweep,
        trial(0, "running", 0.1),
        trial(0, "running", 0.1, changes=change, notes=["the cache is full"]),
        trial(0, "running", 0.1, 0.2, changes=change, notes=["the cache is full"]),
        ends("interrupted"),
    )
    assert (
        "trial 0 copies the weights of trial 1 after epoch 1: temperature=3\n"
        "note: the cache is full\n" in told
    )
    assert f"resume: python run.py sweep --resume mine --store {sweep.folder.parents[1]}" in told


@pytest.mark.usefixtures("run_by_us")
def test_once_shows_how_it_stands_also_in_a_terminal(sweep: Sweep) -> None:
    for number in range(10):
        trial(number, "running")(sweep)
    assert "running: trial 0, 0 of 4 epochs; trial 1, 0 of 4 epochs;" in (
        told := watched(sweep, once=True)
    )
    assert told.rstrip().endswith("trial 7, 0 of 4 epochs; and 2 more")
    assert "of 3; " in watched(sweep, once=True, terminal=True)


@pytest.mark.usefixtures("run_by_us")
def test_a_terminal_shows_one_frame_and_then_the_summary(sweep: Sweep) -> None:
    told = watched(sweep, trial(0, "running", 0.5), ends("finished"), terminal=True)
    assert (
        "running: trial 0, 1 of 4 epochs (0.5000)" in told and "mine: finished after 12 s" in told
    )


@pytest.mark.usefixtures("run_by_us")
def test_the_time_of_a_terminal_goes_on_where_nothing_happens(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Display] = []
    frame = Display.frame

    def noting(display: Display) -> Text:
        drawn.append(display)
        return frame(display)

    monkeypatch.setattr(Display, "frame", noting)
    watched(sweep, ends("finished"), terminal=True)
    once = len(drawn)
    sweep.state = "running"
    sweep.save()
    watched(sweep, lambda _: None, lambda _: None, ends("finished"), terminal=True)
    assert len(drawn) == 2 * once + 2


@pytest.mark.usefixtures("run_by_us")
def test_ctrl_c_ends_the_looking_alone(sweep: Sweep) -> None:
    def interrupted(_: Sweep) -> NoReturn:
        raise KeyboardInterrupt

    told = watched(sweep, interrupted)
    assert (
        f"mine goes on without you; look again: python run.py watch mine --store "
        f"{sweep.folder.parents[1]}\n" in told
    )


def test_a_driver_that_is_killed_is_noticed_and_the_resume_told(sweep: Sweep) -> None:
    with sweep.hold():
        told = watched(sweep, trial(0, "running", 0.5), lost)
    assert "mine: interrupted after 10 s" in told
    assert f"resume: python run.py sweep --resume mine --store {sweep.folder.parents[1]}" in told


def test_a_driver_on_another_host_lives_while_it_touches_its_word(sweep: Sweep) -> None:
    file = sweep.folder / run_lock.HEARTBEAT_FILE
    now = time.time()
    write_json(file, {"host": "elsewhere", "pid": 1, "since": now - 100})
    os.utime(file, (now - 5, now - 5))
    assert ", of 3; 100 s elapsed" in watched(sweep, once=True)
    os.utime(file, (now - run_lock.HEARTBEAT_TIMEOUT_S - 5,) * 2)
    assert "mine: interrupted after 35 s" in watched(sweep)


def test_a_sweep_that_has_just_been_made_is_taken_to_begin(sweep: Sweep) -> None:
    assert watched(sweep, ends("failed")).startswith("mine: before its first trial\n")
    sweep.state, sweep.started = "running", time.time() - 60
    sweep.save()
    assert "mine: interrupted after 12 s" in watched(sweep)


def test_looking_writes_nothing_and_takes_no_lock(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(_: Path) -> NoReturn:
        raise AssertionError("somebody asks for the lock")

    lost(sweep)
    trial(0, "running", 0.5)(sweep)
    (sweep.folder / run_lock.LOCK).unlink(missing_ok=True)
    monkeypatch.setattr(run_lock, "_lock", asked)
    before = stands(sweep)
    watched(sweep)
    watched(sweep, once=True)
    assert stands(sweep) == before


def test_an_unknown_name_or_store_is_refused_in_a_sentence(sweep: Sweep, tmp_path: Path) -> None:
    with refused("name", "min", ("mine",)) as told:
        watch("min", tmp_path, once=True)
    assert "did you mean 'mine'" in str(told.value)
    with refused("--store", str(tmp_path / "none"), "the store of an earlier run"):
        watch("mine", tmp_path / "none", once=True)
    assert not (tmp_path / "none").exists()
