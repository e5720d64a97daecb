"""Test calls of a function in a child process: results, errors, and the end of either process."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pytest

from orchestrator.core.child_process import call_in_child
from orchestrator.core.errors import PreflightError, UserError
from tests.child_functions import count, die, fail, refuse, wait
from tests.refusal import refused

PARENT = """
import sys
from functools import partial
from pathlib import Path
from orchestrator.core.child_process import call_in_child
from tests.child_functions import wait

call_in_child(partial(wait, Path(sys.argv[1])), lambda text: print(text, flush=True))
"""


def test_a_result_arrives_after_the_notes_in_their_order() -> None:
    notes: list[str] = []
    found = call_in_child(partial(count, 3), notes.append)
    assert notes == ["0", "1", "2"]
    assert found["pid"] != os.getpid() and found["program"] == sys.argv[:1]
    assert found["mask"] == 0o077, "its files are for their owner alone"
    assert not psutil.pid_exists(int(str(found["pid"])))


def test_a_refusal_keeps_its_attributes() -> None:
    notes: list[str] = []
    with refused("training.epochs", 0, (1, None)) as caught:
        call_in_child(refuse, notes.append)
    assert notes == ["before"]
    assert "in refuse" in "".join(caught.value.__notes__), "the traceback of the child"


def test_another_error_keeps_class_message_and_traceback_as_text() -> None:
    with pytest.raises(RuntimeError, match="ValueError: of a library") as caught:
        call_in_child(fail, print)
    assert not isinstance(caught.value, UserError)
    assert "in fail" in "".join(caught.value.__notes__)


def test_a_child_that_is_killed_is_no_result() -> None:
    with refused("checks", "signal 9", error=PreflightError):
        call_in_child(die, print)


def test_an_interruption_of_the_parent_interrupts_the_child(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupt(text: str) -> None:
        pids.append(int(text))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call_in_child(partial(wait, tmp_path / "file"), interrupt)
    assert not psutil.pid_exists(pids[0])
    assert (tmp_path / "file").read_text() == "cleaned up"


def test_the_child_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "file")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    child.wait(20)
    parent.stdout.close()
    assert (tmp_path / "file").read_text() == "cleaned up"


def test_entries_of_the_search_path_that_are_no_text_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, Path("/of/a/notebook")])
    assert call_in_child(partial(count, 1), lambda text: None)["pid"] != os.getpid()
