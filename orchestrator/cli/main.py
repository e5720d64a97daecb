"""Run the command line in a process of its own, which ends without a teardown of its modules."""

import atexit
import contextlib
import os
import sys

from orchestrator.cli.app import app


def main() -> None:
    """Run the command of `sys.argv` and exit.

    The interpreter would destroy torch, Ray and MLflow object by object, which takes two seconds.
    Every other function of `atexit` runs before: it was registered later.
    """
    codes: list[int] = []
    atexit.register(_exit_at_once, codes)
    try:
        app()
    except SystemExit as end:
        codes.append(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise


def _exit_at_once(codes: list[int]) -> None:
    """End the process if its exit code is known and its output is written.

    Args:
        codes: The exit code, or nothing while it is unknown.
    """
    if not codes:
        return
    with contextlib.suppress(OSError, ValueError):
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os._exit(codes[0])
