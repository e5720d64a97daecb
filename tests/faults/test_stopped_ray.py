"""Test a run's end with a stopped Ray process, the second Ctrl-C, and a killed driver's rest."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.core.signals import LAST_S, LIMIT_S
from tests.faults.broken import DriverProcess, has_epochs, load_sweep, resume_sweep, start_sweep
from tests.faults.chaos_targets import processes

pytestmark = pytest.mark.faults
LONG = ("training.epochs=2000", "search.trials=2")
STOP_TIMEOUT_S = 20.0
GONE_S = 5.0
INTERRUPTED = 130


def stop(driver: DriverProcess, target: str) -> psutil.Process:
    """Send SIGSTOP to one of the processes of that kind."""
    found: psutil.Process = driver.wait_for(lambda: processes(driver, target), target)[0]
    os.kill(found.pid, signal.SIGSTOP)
    return found


def wait_until_ended(driver: DriverProcess, store: Path) -> None:
    """Assert that the run was interrupted in time and in its records, without leftovers."""
    assert driver.process.wait() == INTERRUPTED, driver.output
    _, left = psutil.wait_procs(DriverProcess.seen, timeout=GONE_S)
    assert not left, [process.cmdline() for process in left]
    found = load_sweep(store)
    assert found is not None and found.state == "interrupted"
    assert not [trial for trial in found.trials.values() if trial.state == "running"]


@pytest.mark.parametrize("target", ["raylet", "GCS"])
def test_sigterm_while_ray_is_stopped(target: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with start_sweep(store, *LONG) as driver:
        driver.wait_for(has_epochs(store, 2), "epoch 2")
        stop(driver, target)
        stop_requested = time.monotonic()
        driver.process.terminate()
        while (
            driver.process.poll() is None and time.monotonic() < stop_requested + 3 * STOP_TIMEOUT_S
        ):
            driver.descendants("")
            time.sleep(0.05)
        took = time.monotonic() - stop_requested
        assert took < STOP_TIMEOUT_S, f"{took:.1f} s:\n{driver.output}"
        wait_until_ended(driver, store)
    assert LIMIT_S + LAST_S < STOP_TIMEOUT_S


def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with start_sweep(store, *LONG) as driver:
        driver.wait_for(has_epochs(store, 2), "epoch 2")
        stop(driver, "worker")  # so that the orderly end has to wait
        driver.process.send_signal(signal.SIGINT)
        time.sleep(1.5)
        driver.descendants("")
        assert driver.process.poll() is None
        driver.process.send_signal(signal.SIGINT)
        wait_until_ended(driver, store)
        assert "exited immediately" in driver.output, driver.output


def test_a_stopped_worker_ends_with_its_killed_driver(tmp_path: Path) -> None:
    """It does not notice the death itself; the process that holds Ray ends it."""
    store = tmp_path / "store"
    with start_sweep(store, *LONG) as driver:
        driver.wait_for(has_epochs(store, 2), "epoch 2")
        stop(driver, "worker")
        driver.kill()
    _, left = psutil.wait_procs(DriverProcess.seen, timeout=STOP_TIMEOUT_S)
    assert not left, [process.cmdline() for process in left]
    with resume_sweep(store) as driver:
        driver.wait_for(has_epochs(store, 3), "epoch 3")
