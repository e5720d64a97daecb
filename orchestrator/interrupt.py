"""Signals that end a run: SIGTERM as Ctrl-C, orderly and in bounded time; the second one ends it at once. Knows no runs."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from orchestrator.errors import INTERRUPTED

END_S = 12.0  # all waits of an orderly end together; what is done between them fits into 20 s with it
TWICE_S = 1.0  # Ctrl-C may reach a process from the terminal and from its parent: that is one signal
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _State:
    """What has come, in this process: signals are those of its main thread."""

    def __init__(self) -> None:
        self.depth = 0
        self.came: float | None = None
        self.unbroken = 0


_state = _State()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """The first SIGTERM or SIGINT raises KeyboardInterrupt within the block, also where the shell told us to ignore SIGINT.

    So does the end that Ray makes of a SIGTERM while it starts. A second signal ends the process. Blocks may lie in one another.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are not for it
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _state.depth += 1
    reclaim()
    try:
        yield
    except SystemExit as error:
        if error.code != signal.SIGTERM:
            raise
        _state.came = _state.came or time.monotonic()
        raise KeyboardInterrupt from error
    finally:
        _state.depth -= 1
        _state.came = _state.came if _state.depth else None
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def reclaim() -> None:
    """Hear of signals again, after a library has set handlers of its own; within `stoppable`, in the main thread."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _stop)


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """What is written within the block is finished: a signal that comes meanwhile raises KeyboardInterrupt at its end.

    So does an error after the signal, as of somebody who gives up because of it.
    """
    _state.unbroken += 1
    try:
        yield
    except Exception as error:
        if _state.came is not None and _state.depth:
            raise KeyboardInterrupt from error
        raise
    finally:
        _state.unbroken -= 1
    if _state.came is not None and not _state.unbroken and _state.depth:
        raise KeyboardInterrupt


def left(most_s: float, spare_s: float = 0.0) -> float:
    """Seconds that a wait may take: `most_s`, and after a signal what is left of `END_S` less what others still need of it."""
    if _state.came is None:
        return most_s
    return min(most_s, max(_state.came + END_S - spare_s - time.monotonic(), 0.0))


def _stop(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if _state.came is None:
        _state.came = now
        if not _state.unbroken:
            raise KeyboardInterrupt
    elif now - _state.came > TWICE_S:
        os.write(2, b"ended at once, in the middle of what it did\n")
        os._exit(INTERRUPTED)
