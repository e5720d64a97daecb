"""SIGTERM as Ctrl-C: whoever ends a run by signal gets the orderly end, with what can be resumed."""

import contextlib
import signal
import time
from collections.abc import Iterator
from types import FrameType

END_S = 16.0  # all waits of an orderly end together
_came: list[float] = []


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and SIGINT both raise KeyboardInterrupt within the block, also where the shell told us to ignore SIGINT."""
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, _stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def left(most_s: float, spare_s: float = 0.0) -> float:
    """Seconds that a wait may take: `most_s`, and after a signal what is left of `END_S` less what others still need of it."""
    return min(most_s, max(_came[0] + END_S - spare_s - time.monotonic(), 0.0)) if _came else most_s


def _stop(number: int, frame: FrameType | None) -> None:
    _came.append(time.monotonic())
    raise KeyboardInterrupt
