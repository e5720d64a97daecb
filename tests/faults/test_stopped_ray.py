"""Test a run's end with a stopped Ray process, the second Ctrl-C, and a killed driver's rest."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.core.signals import LAST_S, LIMIT_S
from tests.faults.broken import Life, reached, record, resumed, start_sweep
from tests.faults.chaos_targets import processes

pytestmark = pytest.mark.faults
LONG = ("training.epochs=2000", "search.trials=2")
PROMISED_S = 20.0
GONE_S = 5.0
INTERRUPTED = 130


def stop(life: Life, target: str) -> psutil.Process:
    """Send SIGSTOP to one of the processes of that kind."""
    found: psutil.Process = life.until(lambda: processes(life, target), target)[0]
    os.kill(found.pid, signal.SIGSTOP)
    return found


def ended(life: Life, store: Path) -> None:
    """Assert that the run was interrupted in time and in its records, without leftovers."""
    assert life.process.wait() == INTERRUPTED, life.output
    _, left = psutil.wait_procs(Life.seen, timeout=GONE_S)
    assert not left, [process.cmdline() for process in left]
    found = record(store)
    assert found is not None and found.state == "interrupted"
    assert not [trial for trial in found.trials.values() if trial.state == "running"]


@pytest.mark.parametrize("target", ["raylet", "GCS"])
def test_sigterm_while_ray_is_stopped(target: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with start_sweep(store, *LONG) as life:
        life.until(reached(store, 2), "epoch 2")
        stop(life, target)
        stop_requested = time.monotonic()
        life.process.terminate()
        while life.process.poll() is None and time.monotonic() < stop_requested + 3 * PROMISED_S:
            life.below("")
            time.sleep(0.05)
        took = time.monotonic() - stop_requested
        assert took < PROMISED_S, f"{took:.1f} s:\n{life.output}"
        ended(life, store)
    assert LIMIT_S + LAST_S < PROMISED_S


def test_the_second_signal(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with start_sweep(store, *LONG) as life:
        life.until(reached(store, 2), "epoch 2")
        stop(life, "worker")  # so that the orderly end has to wait
        life.process.send_signal(signal.SIGINT)
        time.sleep(1.5)
        life.below("")
        assert life.process.poll() is None
        life.process.send_signal(signal.SIGINT)
        ended(life, store)
        assert "ended at once" in life.output


def test_the_next_command_ends_what_was_left(tmp_path: Path) -> None:
    """A stopped worker does not notice the death of its driver."""
    store = tmp_path / "store"
    with start_sweep(store, *LONG) as life:
        life.until(reached(store, 2), "epoch 2")
        worker = stop(life, "worker")
        time.sleep(2.5)  # longer than the interval of the process records
        life.kill()
    time.sleep(1.0)
    assert worker.is_running(), "there is nothing to show"
    with resumed(store) as life:
        life.until(lambda: "left behind" in life.output, "what was ended")
        assert not worker.is_running()
