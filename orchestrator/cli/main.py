"""Run the command line in a process of its own, which ends without a teardown of its modules."""

import atexit
import contextlib
import os
import sys

from orchestrator.cli.app import app


class _ExitCode:
    """Exit code of the process; None while it is unknown."""

    value: int | None = None


def main() -> None:
    """Run the command of `sys.argv` and exit.

    The interpreter would destroy torch, Ray and MLflow object by object, which takes two seconds.
    Every other function of `atexit` runs before: it was registered later.
    """
    code = _ExitCode()
    atexit.register(_exit_at_once, code)
    try:
        app()
    except SystemExit as end:
        code.value = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def _exit_at_once(code: _ExitCode) -> None:
    """End the process if its exit code is known and its output is written."""
    if code.value is None:
        return
    with contextlib.suppress(OSError, ValueError):
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(code.value)
