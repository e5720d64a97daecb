"""Where the time of an epoch goes, by name. Host time: within an epoch nothing waits for the device."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what the host queued, once per epoch: the sum of the parts is then the true time."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Clock:
    """Seconds per part of the work, since the last `reset`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the block to `part`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    def iterate(self, part: str, items: Iterator[T]) -> Iterator[T]:
        """The items, with the time that making them takes counted to `part`."""
        while True:
            with self.measure(part):
                item = next(items, None)
            if item is None:
                return
            yield item

    def reset(self) -> dict[str, float]:
        """The seconds so far, by part, and begin again."""
        seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds
