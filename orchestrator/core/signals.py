"""Handle SIGTERM like Ctrl-C: shut down in order within `LIMIT_S`, or exit the process.

A second signal, or an overdue shutdown, exits the process at once. Python runs signal handlers in
the main thread only, which may be stuck in a call to Ray. A separate thread therefore reads the
signal numbers from a pipe, to which Python writes them regardless of the main thread.
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

# All waits of an orderly shutdown together; with the work between them it stays within 20 s.
END_S = 12.0
# After this the process exits, whatever it waits for. With `LAST_S` this is below the documented
# 20 s.
LIMIT_S = 18.0
LAST_S = 1.5  # for the actions before the process exits at once
# Ctrl-C may reach a process from the terminal and from its parent, which counts as one signal.
TWICE_S = 1.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)
WAKE = b"\0"  # no signal has this number
AT_ONCE = "exited immediately, without an orderly shutdown"
LATE = "the shutdown took too long after the signal: exited immediately"


class _State:
    """Signal state of this process; signals belong to its main thread."""

    def __init__(self) -> None:
        self.depth = 0
        self.signalled_at: float | None = None
        self.raised = False  # in the main thread, possibly later than `signalled_at`
        self.deferred = 0
        self.reason, self.code = "", INTERRUPTED
        self.last: list[Callable[[], object]] = []
        self.ending = threading.Lock()
        self.sender: int | None = None  # write end of the pipe


_state = _State()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Raise KeyboardInterrupt within the block at the first SIGTERM or SIGINT.

    This holds even if the shell has set SIGINT to be ignored. The SystemExit that Ray raises for a
    SIGTERM while it starts also becomes KeyboardInterrupt. The process exits at a second signal, or
    if the block is not left within `LIMIT_S` of the first one. Blocks may be nested.
    """
    if threading.current_thread() is not threading.main_thread():  # it receives no signals
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
            _state.signalled_at = _state.signalled_at or time.monotonic()
            raise KeyboardInterrupt from error
        finally:
            _state.depth -= 1
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def reinstall_handlers() -> None:
    """Reinstall the signal handlers after a library has set its own.

    Call this within `stoppable`, in the main thread.
    """
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _stop)


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """Defer signals to the end of the block, so that what is written in it is completed.

    A signal within the block raises KeyboardInterrupt at its end. An error after the signal, as of
    a wait that the signal has ended, becomes KeyboardInterrupt too.
    """
    _state.deferred += 1
    try:
        yield
    except Exception as error:
        if _state.raised and _state.depth:
            raise KeyboardInterrupt from error
        raise
    finally:
        _state.deferred -= 1
    if _state.raised and not _state.deferred and _state.depth:
        raise KeyboardInterrupt


def remaining_timeout(most_s: float, spare_s: float = 0.0) -> float:
    """Return the seconds that a wait may take.

    Args:
        most_s: The timeout in seconds as long as no signal has arrived.
        spare_s: After a signal, the part of `END_S` in seconds that later waits need.

    Returns:
        `most_s`; after a signal at most the rest of `END_S` less `spare_s`, and at least 0.
    """
    if _state.signalled_at is None:
        return most_s
    return min(most_s, max(_state.signalled_at + END_S - spare_s - time.monotonic(), 0.0))


@contextlib.contextmanager
def before_exit(action: Callable[[], object]) -> Iterator[None]:
    """Run the action, in a thread, if the process exits at once within the block.

    The action has `LAST_S` seconds.
    """
    _state.last.append(action)
    try:
        yield
    finally:
        _state.last.remove(action)


def give_up(reason: str, code: int) -> None:
    """End the run from any thread as a signal does, whatever the main thread waits for.

    Args:
        reason: The message that is printed if the main thread is stuck.
        code: The exit code if the main thread is stuck.
    """
    _state.reason, _state.code = reason, code
    if _state.sender is not None:
        _state.signalled_at = _state.signalled_at or time.monotonic()
        os.write(_state.sender, WAKE)
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _stop(number: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    _state.signalled_at = _state.signalled_at or now
    if not _state.raised:
        _state.raised = True
        if not _state.deferred:
            raise KeyboardInterrupt
    elif now - _state.signalled_at > TWICE_S:
        _end_at_once(AT_ONCE, INTERRUPTED)


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Watch the signals in a thread within the block."""
    receiver, _state.sender = os.pipe()
    os.set_blocking(_state.sender, False)
    before = signal.set_wakeup_fd(_state.sender, warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(receiver,), name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(_state.sender)  # ends the thread
        _state.sender = None
        thread.join()
        os.close(receiver)
        _state.signalled_at = None
        _state.raised = False
        _state.reason = ""
        _state.code = INTERRUPTED


def _watch(receiver: int) -> None:
    """Record the time of the first signal; exit at the second one, or when the end is overdue."""
    # The time at which this thread reads the first signal, so that a first signal that the main
    # thread has already handled counts once.
    first: float | None = None
    while True:
        if _state.signalled_at is None:
            rest = None
        else:
            rest = max(_state.signalled_at + LIMIT_S - time.monotonic(), 0.0)
        if not select.select([receiver], [], [], rest)[0]:
            _end_at_once(_state.reason or LATE, _state.code)
        numbers = os.read(receiver, 64)
        if not numbers:
            return
        if any(number in SIGNALS for number in numbers):
            now = time.monotonic()
            first = first or now
            _state.signalled_at = _state.signalled_at or now
            if now - first > TWICE_S:
                _end_at_once(AT_ONCE, INTERRUPTED)


def _end_at_once(reason: str, code: int) -> None:
    """Print the reason, run the pending actions within `LAST_S`, and exit.

    The state of the main thread does not matter.
    """
    if not _state.ending.acquire(blocking=False):
        time.sleep(2 * LAST_S)  # another thread is already exiting
    os.write(2, f"{reason}\n".encode())
    threads = [threading.Thread(target=action, daemon=True) for action in _state.last]
    for thread in threads:
        thread.start()
    until = time.monotonic() + LAST_S
    for thread in threads:
        thread.join(max(until - time.monotonic(), 0.0))
    os._exit(code)
