"""Test that a closed reader or a full disk costs a command only its output."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest
from rich.console import Console

from orchestrator.cli import app
from orchestrator.config.loader import load
from orchestrator.core.errors import OK, UNFIT_ENVIRONMENT
from orchestrator.core.output import survive_lost_output
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store

MUCH = "line\n" * 2_000  # more than Python's buffer holds


@pytest.fixture
def unread() -> Iterator[TextIO]:
    """Return a pipe whose reader is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        yield stream
        with contextlib.suppress(BrokenPipeError):  # if a test never wrote
            stream.flush()


def status(store: Path) -> None:
    app.status(name="one", store=str(store), json=True)


def write() -> None:
    print(MUCH)


def draw() -> None:
    Console().print(MUCH)


@pytest.mark.parametrize("show", [write, draw])
def test_work_goes_on_without_its_reader(
    unread: TextIO, monkeypatch: pytest.MonkeyPatch, show: Callable[[], None]
) -> None:
    monkeypatch.setattr(sys, "stdout", unread)
    monkeypatch.setattr(sys, "stderr", unread)
    done = 0
    with survive_lost_output():
        for _ in range(3):
            show()
            print("error", file=sys.stderr, flush=True)
            done += 1
    assert done == 3 and sys.stdout is unread


@pytest.mark.parametrize("show", [write, draw])
def test_what_only_shows_something_ends_quietly(
    unread: TextIO, monkeypatch: pytest.MonkeyPatch, show: Callable[[], None]
) -> None:
    monkeypatch.setattr(sys, "stdout", unread)
    with pytest.raises(SystemExit) as ended, survive_lost_output(ends=True):
        show()
        pytest.fail("the command went on")
    assert ended.value.code == OK


def test_status_for_programs_into_a_pipe_that_is_closed(
    unread: TextIO,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = Store.open(tmp_path)
    Sweep.create(store.sweep("one"), load(None, []), "sweep")
    with pytest.raises(SystemExit) as ended:
        status(tmp_path)
    assert ended.value.code == OK and json.loads(capsys.readouterr().out)["sweep"] == "one"
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as ended:
        patched.setattr(sys, "stdout", unread)
        status(tmp_path)
    assert ended.value.code == OK and not capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_output_that_is_lost_on_a_full_disk_is_an_error_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store, done = Store.open(tmp_path), []
    Sweep.create(store.sweep("one"), load(None, []), "sweep")
    with open("/dev/full", "w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as ended:
            status(tmp_path)
        with survive_lost_output():
            print("first", flush=True)
            done.append("the work")
    assert ended.value.code == UNFIT_ENVIRONMENT and done
    assert "error: the output could not be written" in capsys.readouterr().err


def test_an_output_that_was_closed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with survive_lost_output():
        print("nowhere")
