"""Call a function in a child process, so that this process does not import what it needs.

The function, its result and its errors are pickled: both processes are of this program, and the
pipe between them has no name. The child ends when the pipe closes, and so with this process, even
if that is killed. It has the terminal's output of this process, and no input.
"""

import contextlib
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from orchestrator.core.errors import PreflightError, UserError, short_reason
from orchestrator.core.signals import remaining_timeout

T = TypeVar("T")
CHILD = "orchestrator.core._child_main"
END_S = 5.0  # for the steps in progress of a child that is ended


@dataclass(frozen=True, slots=True)
class Note:
    """Message for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Result:
    """Result of the function, the last message."""

    value: Any


@dataclass(frozen=True, slots=True)
class Failure:
    """Error of the function, the last message."""

    error: Exception

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Return the failure with an error whose note is the traceback of this process.

        An error of another class than `UserError` becomes a RuntimeError: classes of libraries may
        not be picklable.
        """
        note = f"in a child process:\n{''.join(traceback.format_exception(error))}"
        if not isinstance(error, UserError):
            error = RuntimeError(short_reason(error))
        error.add_note(note)
        return cls(error)


def start_child(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None, **streams: Any
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a module of this program as a process; return it and this end of a pipe to it.

    It has the search path of this process and no input.

    Args:
        module: The module; its first argument is the descriptor of its end of the pipe.
        arguments: Further arguments.
        environment: The environment; None for that of this process.
        streams: The arguments `stdout` and `stderr` of `subprocess.Popen`.
    """
    connection, other_end = Pipe()
    # Python ignores entries that are no text
    paths = [path or os.getcwd() for path in sys.path if isinstance(path, str)]
    with other_end:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(other_end.fileno()), *arguments],
            env={**(environment or os.environ), "PYTHONPATH": os.pathsep.join(paths)},
            pass_fds=[other_end.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal reaches this process alone
            **streams,
        )
    return process, connection


def call_in_child(function: Callable[[Callable[[str], None]], T], note: Callable[[str], None]) -> T:
    """Return the result of a function that a child process calls.

    Args:
        function: A function that can be pickled. It takes a function for notes, as `note`.
        note: Receives the notes of the function while it runs.

    Raises:
        UserError: The error of the function.
        RuntimeError: The function has raised another error.
        PreflightError: The child has ended without a result.
    """
    process, connection = start_child(CHILD, *sys.argv[:1])
    try:
        with contextlib.suppress(OSError):  # it has ended: `recv` fails too
            connection.send(function)
        while isinstance(message := connection.recv(), Note):
            note(message.text)
    except (EOFError, ConnectionError) as error:
        connection.close()
        code = process.wait()
        reason = f"signal {-code}" if code < 0 else f"exit code {code}"
        advice = "free memory" if code < 0 else "see its messages above"
        raise PreflightError(
            f"the process that checks the run has ended without a result ({reason}): {advice}, "
            f"and start the command again"
        ).with_details("checks", reason, "a result") from error
    finally:
        _end(process, connection)
    if isinstance(message, Failure):
        raise message.error
    assert isinstance(message, Result)
    value: T = message.value
    return value


def _end(process: subprocess.Popen[bytes], connection: Connection) -> None:
    """End the child: it has sent its last message, or the pipe interrupts it."""
    connection.close()
    try:
        process.wait(remaining_timeout(END_S))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
