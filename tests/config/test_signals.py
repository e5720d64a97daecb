"""Test signals: the first ends in order and in bounded time, the second ends at once."""

import os
import signal
import subprocess
import sys
import time

import pytest

from orchestrator.core import signals
from orchestrator.core.signals import (
    defer_signals,
    reinstall_handlers,
    remaining_timeout,
    stoppable,
)

SECOND = """
import os, signal, sys
from orchestrator.core import signals
signals.TWICE_S = 0.0
with signals.stoppable():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        print("never")
"""

STUCK = """
import ctypes, os, signal, threading, time
from orchestrator.core import signals
last = signals.before_exit

def again_and_again():
    while True:
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

with signals.stoppable(), last(threading.Event().wait), last(lambda: print("written", flush=True)):
    signals.LIMIT_S, signals.TWICE_S, signals.LAST_S = {times}
    try:
        threading.Timer(0.0, {signal}).start()
        time.sleep(60)
    finally:
        # further ones come to another thread
        signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS)
        ctypes.CDLL(None).sleep(60)  # as a call to a library that does not return
        print("never")
"""


def kill(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_interrupts_and_handlers_are_put_back(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stoppable(), stoppable():
        kill(number)
    assert signal.getsignal(number) == before


def test_a_write_in_progress_is_completed() -> None:
    written = []
    with pytest.raises(KeyboardInterrupt), stoppable():
        with defer_signals():
            kill(signal.SIGTERM)
            with defer_signals():
                written.append("within")
            written.append("whole")
        written.append("never")
    assert written == ["within", "whole"]
    with stoppable(), defer_signals():
        written.append("another run")
    assert written[-1] == "another run"


def test_an_error_after_a_signal_becomes_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), stoppable(), defer_signals():
        kill(signal.SIGTERM)
        raise OSError("the disk is full")
    with pytest.raises(OSError, match="full"), stoppable(), defer_signals():
        raise OSError("full")


def test_a_duplicate_signal_counts_once() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), stoppable():
        try:
            kill(signal.SIGINT)
        finally:
            kill(signal.SIGTERM)  # from the parent, which received Ctrl-C too
            done.append("the orderly end")
    assert done


def test_the_second_signal_exits_immediately() -> None:
    process = subprocess.run([sys.executable, "-c", SECOND], capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (
        130,
        "",
    ) and "exited immediately" in process.stderr


@pytest.mark.parametrize(
    ("signalled", "times", "code", "message"),
    [
        (
            "os.kill, (os.getpid(), signal.SIGTERM)",
            (0.2, 1.0, 2.0),
            130,
            "the shutdown took too long",
        ),
        (
            "signals.give_up, ('error: no node is left', 3)",
            (0.2, 1.0, 2.0),
            3,
            "error: no node is left",
        ),
        ("again_and_again", (60.0, 0.0, 2.0), 130, "exited immediately"),
    ],
)
def test_a_process_with_a_stuck_main_thread_exits(
    signalled: str, times: tuple[float, ...], code: int, message: str
) -> None:
    """The final actions run; an action that does not end is not waited for."""
    program = STUCK.format(signal=signalled, times=times)
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50
    )
    assert (process.returncode, process.stdout) == (code, "written\n") and message in process.stderr


def test_system_exit_of_ray_becomes_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), stoppable():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
        kill(signal.SIGTERM)
    with pytest.raises(SystemExit), stoppable():
        sys.exit(2)
    with pytest.raises(KeyboardInterrupt), stoppable():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(3))
        reinstall_handlers()
        kill(signal.SIGTERM)


def test_timeouts_share_the_remaining_time_after_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    assert remaining_timeout(60.0, 8.0) == 60.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(signals, "LIMIT_S", 1000.0)  # the process would end
    with pytest.raises(KeyboardInterrupt), stoppable():
        try:
            kill(signal.SIGINT)
        finally:
            now += 3.0
            assert (
                remaining_timeout(60.0) == signals.END_S - 3.0
                and remaining_timeout(60.0, spare_s=8.0) == signals.END_S - 11.0
            )
            assert remaining_timeout(2.0) == 2.0
            now += 60.0
            assert remaining_timeout(60.0) == 0.0
