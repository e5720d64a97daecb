"""Signals: SIGTERM as Ctrl-C, an orderly end within `LIMIT_S`; the process ends at once with the second one, or when it is late.

Python runs its handlers in the main thread alone, which may be stuck in a call to Ray. So a thread of its own reads the
numbers of all signals too, which Python writes to a pipe whatever the main thread does.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from orchestrator.core.errors import INTERRUPTED

END_S = 12.0  # all waits of an orderly end together; what is done between them fits into 20 s with it
LIMIT_S = 18.0  # after this the process ends, whatever it waits for; with `LAST_S` it is below the 20 s that are promised
LAST_S = 1.5  # for what is done before the process ends at once
TWICE_S = 1.0  # Ctrl-C may reach a process from the terminal and from its parent: that is one signal
SIGNALS = (signal.SIGTERM, signal.SIGINT)
WAKE = b"\0"  # no signal has this number
AT_ONCE = "ended at once, in the middle of what it did"
LATE = "not ended in time after the signal: ended at once, in the middle of what it did"


class _State:
    """What has come, in this process: signals are those of its main thread."""

    def __init__(self) -> None:
        self.depth = 0
        self.came: float | None = None
        self.raised = False  # in the main thread, which may be later
        self.unbroken = 0
        self.reason, self.code = "", INTERRUPTED
        self.last: list[Callable[[], object]] = []
        self.ending = threading.Lock()
        self.sender: int | None = None  # of the pipe


_state = _State()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """The first SIGTERM or SIGINT raises KeyboardInterrupt within the block, also where the shell told us to ignore SIGINT.

    So does the end that Ray makes of a SIGTERM while it starts. A second signal ends the process, as does a block that is not left
    within `LIMIT_S` of the first one. Blocks may lie in one another.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are not for it
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with contextlib.ExitStack() as outermost:
        if not _state.depth:
            outermost.enter_context(_watched())
        _state.depth += 1
        reinstall_handlers()
        try:
            yield
        except SystemExit as error:
            if error.code != signal.SIGTERM:
                raise
            _state.came = _state.came or time.monotonic()
            raise KeyboardInterrupt from error
        finally:
            _state.depth -= 1
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def reinstall_handlers() -> None:
    """Hear of signals again, after a library has set handlers of its own; within `stoppable`, in the main thread."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _stop)


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """What is written within the block is finished: a signal that comes meanwhile raises KeyboardInterrupt at its end.

    So does an error after the signal, as of somebody who gives up because of it.
    """
    _state.unbroken += 1
    try:
        yield
    except Exception as error:
        if _state.raised and _state.depth:
            raise KeyboardInterrupt from error
        raise
    finally:
        _state.unbroken -= 1
    if _state.raised and not _state.unbroken and _state.depth:
        raise KeyboardInterrupt


def remaining_timeout(most_s: float, spare_s: float = 0.0) -> float:
    """Seconds that a wait may take: `most_s`, and after a signal what is left of `END_S` less what others still need of it."""
    if _state.came is None:
        return most_s
    return min(most_s, max(_state.came + END_S - spare_s - time.monotonic(), 0.0))


@contextlib.contextmanager
def before_exit(action: Callable[[], object]) -> Iterator[None]:
    """Within the block the action is what is still done, in a thread, when the process ends at once; it has `LAST_S`."""
    _state.last.append(action)
    try:
        yield
    finally:
        _state.last.remove(action)


def give_up(reason: str, code: int) -> None:
    """End the run from any thread as a signal does, the one way to end whatever the main thread waits for.

    The process says the reason, and exits with the code, where the main thread is stuck.
    """
    _state.reason, _state.code = reason, code
    if _state.sender is not None:
        _state.came = _state.came or time.monotonic()
        os.write(_state.sender, WAKE)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _stop(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    _state.came = _state.came or now
    if not _state.raised:
        _state.raised = True
        if not _state.unbroken:
            raise KeyboardInterrupt
    elif now - _state.came > TWICE_S:
        _end_at_once(AT_ONCE, INTERRUPTED)


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """A thread looks at the signals until the block is left."""
    receiver, _state.sender = os.pipe()
    os.set_blocking(_state.sender, False)
    before = signal.set_wakeup_fd(_state.sender, warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(receiver,), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(_state.sender)  # the end of the thread
        _state.sender = None
        thread.join()
        os.close(receiver)
        _state.came, _state.raised, _state.reason, _state.code = None, False, "", INTERRUPTED


def _watch(receiver: int) -> None:
    """Note when the first signal came; end the process at the second one, or when the first is too long ago."""
    first: float | None = None  # as it is read here, so that a first one which the main thread has handled before counts once
    while True:
        rest = None if _state.came is None else max(_state.came + LIMIT_S - time.monotonic(), 0.0)
        if not select.select([receiver], [], [], rest)[0]:
            _end_at_once(_state.reason or LATE, _state.code)
        numbers = os.read(receiver, 64)
        if not numbers:
            return
        if any(number in SIGNALS for number in numbers):
            now = time.monotonic()
            first = first or now
            _state.came = _state.came or now
            if now - first > TWICE_S:
                _end_at_once(AT_ONCE, INTERRUPTED)


def _end_at_once(reason: str, code: int) -> None:
    """Say why, do what is still to be done as far as `LAST_S` allows, and exit; whatever the main thread holds."""
    if not _state.ending.acquire(blocking=False):
        time.sleep(2 * LAST_S)  # another thread is at it
    os.write(2, f"{reason}\n".encode())
    threads = [threading.Thread(target=action, daemon=True) for action in _state.last]
    for thread in threads:
        thread.start()
    until = time.monotonic() + LAST_S
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0.0))
    os._exit(code)
