"""Support debuggers of user code: act before one starts, and detect one that waits for input."""

import contextlib
import os
import pdb
import sys
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def before_breakpoint(action: Callable[[], object]) -> Iterator[None]:
    """Call `action` before each `breakpoint()` of this process within the block."""
    previous = sys.breakpointhook

    def hook(*arguments: Any, **words: Any) -> Any:
        action()
        if previous is sys.__breakpointhook__ and "PYTHONBREAKPOINT" not in os.environ:
            # the caller's frame: Python's own hook would stop in this one
            return pdb.Pdb().set_trace(sys._getframe(1))
        return previous(*arguments, **words)

    sys.breakpointhook = hook
    try:
        yield
    finally:
        sys.breakpointhook = previous


def is_in_debugger(thread: int | None) -> bool:
    """Return whether a thread, by its identifier, is at the prompt of a debugger."""
    frame = sys._current_frames().get(thread) if thread is not None else None
    while frame is not None:
        if frame.f_globals.get("__name__") == "bdb":
            return True
        frame = frame.f_back
    return False
