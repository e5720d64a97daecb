"""Test the lock of a sweep: one process at a time, named in the refusal; a dead one is detected."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.core.errors import PreflightError
from orchestrator.store import run_lock
from orchestrator.store.store import read_json, write_json
from tests.refusal import refused

HOLD = """
import sys, pathlib
from orchestrator.store import run_lock
with run_lock.hold_lock(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    return tmp_path / "mine"


def word(folder: Path, age_s: float, **changes: object) -> None:
    """Write the heartbeat file of a process on another host, last touched `age_s` seconds ago."""
    write_json(
        folder / run_lock.HEARTBEAT_FILE, {"host": "elsewhere", "pid": 7, "since": 1.7e9} | changes
    )
    then = time.time() - age_s
    os.utime(folder / run_lock.HEARTBEAT_FILE, (then, then))


def test_a_killed_process_releases_the_lock(folder: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert run_lock.is_running(folder)
        with (
            refused("name", "mine", "a sweep that no process runs") as refusal,
            run_lock.hold_lock(folder),
        ):
            pass
        assert all(
            part in str(refusal.value) for part in (socket.gethostname(), f"kill {process.pid}")
        )
        process.kill()
        process.wait()
    assert read_json(folder / run_lock.HEARTBEAT_FILE)["pid"] == process.pid, (
        "it could not clean up"
    )
    assert not run_lock.is_running(folder)
    with run_lock.hold_lock(folder):
        assert (
            run_lock.is_running(folder)
            and read_json(folder / run_lock.HEARTBEAT_FILE)["pid"] == os.getpid()
        )
    assert not run_lock.is_running(folder) and not (folder / run_lock.HEARTBEAT_FILE).exists()


def test_a_fresh_heartbeat_of_another_host_is_respected_without_its_lock(folder: Path) -> None:
    word(folder, age_s=5)
    assert run_lock.is_running(folder)
    with refused("name", "mine", "a sweep that no process runs") as refusal:
        run_lock.hold_lock(folder).__enter__()
    assert all(
        part in str(refusal.value)
        for part in ("process 7", "elsewhere", "2023-", f"{run_lock.HEARTBEAT_TIMEOUT_S:.0f} s")
    )
    assert read_json(folder / run_lock.HEARTBEAT_FILE)["host"] == "elsewhere", (
        "the heartbeat file of the other host is unchanged"
    )
    word(folder, age_s=run_lock.HEARTBEAT_TIMEOUT_S + 5)
    assert not run_lock.is_running(folder)
    with run_lock.hold_lock(folder):
        pass


def test_an_unreadable_heartbeat_file_is_ignored(folder: Path) -> None:
    (folder / run_lock.HEARTBEAT_FILE).write_text('{"host"')
    with run_lock.hold_lock(folder):
        (folder / run_lock.HEARTBEAT_FILE).write_text("[]")
        assert (
            run_lock.describe_driver(folder)
            == "sweep 'mine' is being run by another process: wait until it ends, or stop it"
        )


def test_a_driver_of_this_host_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is this process, which ends in its own way at the signal."""
    assert not run_lock.stop_driver(folder)
    driver = run_lock.hold_lock(folder)
    driver.__enter__()
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *given: signals.append(given))
    assert run_lock.stop_driver(folder, lambda _: driver.__exit__(None, None, None))
    assert signals == [(os.getpid(), signal.SIGTERM)]


def test_a_driver_that_does_not_end_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: None)
    with run_lock.hold_lock(folder), refused("name", "mine", error=PreflightError):
        run_lock.stop_driver(folder, lambda _: None)


def test_a_driver_of_another_host_is_not_stopped(folder: Path) -> None:
    word(folder, age_s=5)
    with refused("name", "mine", "a driver on this host"):
        run_lock.stop_driver(folder, lambda _: None)
