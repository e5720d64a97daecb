"""SIGTERM as Ctrl-C: whoever ends a run by signal gets the orderly end, with what can be resumed."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and SIGINT both raise KeyboardInterrupt within the block, also where the shell told us to ignore SIGINT."""
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, signal.default_int_handler) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
