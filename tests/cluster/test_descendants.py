"""Test that a driver's processes are recorded, and ended with it or by the next command."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.cluster.descendants import (
    Descendants,
    end_leftover_processes,
    exempt,
    record_descendants,
    wait_until_gone,
)

LONG_S = 60.0
DRIVER = """
import subprocess, sys, time
from pathlib import Path
from orchestrator.cluster.descendants import record_descendants
with record_descendants(Path(sys.argv[1])):
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    time.sleep(600)
"""


def until(condition: Callable[[], Any]) -> Any:
    """Wait for another process, with a time limit."""
    end = time.monotonic() + LONG_S
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def noted_processes(folder: Path) -> list[dict[str, Any]]:
    for file in folder.glob("processes-*.json"):
        found: list[dict[str, Any]] = json.loads(file.read_text())["processes"]
        return found
    return []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sweeps" / "mine" / "groups"


@pytest.fixture
def driver(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a driver whose child is recorded in the file."""
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder)])
    left: list[psutil.Process] = []
    try:
        left = [psutil.Process(each["pid"]) for each in until(lambda: noted_processes(folder))]
        yield process
    finally:
        for each in left:
            if each.is_running():
                each.kill()
        process.kill()
        process.wait()


def test_leftover_processes_of_a_killed_driver_are_ended_even_if_stopped(
    driver: subprocess.Popen[bytes], folder: Path, tmp_path: Path
) -> None:
    (child,) = (psutil.Process(each["pid"]) for each in noted_processes(folder))
    assert end_leftover_processes(tmp_path) == [], "the driver is alive"
    child.suspend()
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert end_leftover_processes(tmp_path) == [child.pid] and not child.is_running()
    assert not list(folder.iterdir()) and end_leftover_processes(tmp_path) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [("began", 1.0), ("program", "/bin/another"), ("pid", 2**22 + 1), ("host", "elsewhere")],
)
def test_a_process_that_does_not_match_its_record_is_left_alone(
    key: str, value: Any, driver: subprocess.Popen[bytes], folder: Path, tmp_path: Path
) -> None:
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    (file,) = folder.glob("processes-*.json")
    plain = json.loads(file.read_text())
    del plain["checksum"]
    (each,) = plain["processes"]
    pid = each["pid"]
    (plain if key == "host" else each)[key] = value
    file.write_text(json.dumps(plain))
    child = psutil.Process(pid)
    assert end_leftover_processes(tmp_path) == [] and child.is_running()
    assert file.exists() is (key == "host"), "the record of another host is kept"


@pytest.mark.parametrize(
    "content", ["", "[]", "null", '{"host": 1}', '{"host": "x", "driver": null}']
)
def test_an_invalid_record_is_skipped(content: str, folder: Path, tmp_path: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "processes-1.json").write_text(content)
    assert end_leftover_processes(tmp_path) == []


def test_processes_that_live_at_the_end_of_the_block_are_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.cluster.descendants.ORDERLY_S", 0.0)
    with record_descendants(folder):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        until(lambda: noted_processes(folder))
    assert child.wait(LONG_S) == -signal.SIGKILL and not list(folder.iterdir())


PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)  # the exit status of the child is never read
"""


def test_an_ended_process_counts_as_gone_although_it_is_listed() -> None:
    """The first process of a container reads no exit status of orphans."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    try:
        descendants = Descendants()
        descendants.driver = psutil.Process(parent.pid)
        assert descendants.refresh() == [child]
        assert wait_until_gone(descendants, timeout_s=0.0) == [child]
        child.kill()
        assert wait_until_gone(descendants, LONG_S) == [] and psutil.pid_exists(child.pid)
    finally:
        parent.kill()
        parent.wait()


def test_processes_of_the_program_before_a_run_and_exempted_ones_live_on(folder: Path) -> None:
    """A notebook may have started the former; the latter end by themselves."""
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    own, started = subprocess.Popen(sleep), list[subprocess.Popen[bytes]]()
    try:
        with record_descendants(folder):
            started += [subprocess.Popen(sleep), subprocess.Popen(sleep)]
            until(lambda: len(noted_processes(folder)) == 2)
            exempt(started[1].pid)
        assert started[0].wait(LONG_S) == -signal.SIGKILL
        assert own.poll() is None and started[1].poll() is None
    finally:
        for process in (own, *started):
            process.kill()
            process.wait()
