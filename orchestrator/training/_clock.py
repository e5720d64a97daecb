"""Where the time of an epoch goes, by name. On a GPU it is read from events on the device, so that no step waits for it."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


class Clock:
    """Seconds per part of the work, since the last `reset`; the rest of the time is nobody's."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self.start = time.perf_counter()

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the block to `part`."""
        if self.device.type == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            self.events.append((part, first, last))
            first.record()
            yield
            last.record()
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - start

    def add(self, part: str, seconds: float) -> None:
        """Count seconds of the host to `part`."""
        self.seconds[part] += seconds

    def iterate(self, part: str, items: Iterator[T]) -> Iterator[T]:
        """The items, with the time that making them takes counted to `part`."""
        while True:
            with self.measure(part):
                item = next(items, None)
            if item is None:
                return
            yield item

    def reset(self) -> dict[str, float]:
        """The seconds so far, by part, `epoch` for all of them; then begin again. Waits for the device, once an epoch."""
        if self.events:
            torch.cuda.synchronize(self.device)
        for part, first, last in self.events:
            self.seconds[part] += first.elapsed_time(last) / 1000
        seconds = {**self.seconds, "epoch": time.perf_counter() - self.start}
        self.restart()
        return seconds

    def restart(self) -> None:
        """Begin again; what was counted so far is nobody's."""
        self.seconds, self.events, self.start = defaultdict(float), [], time.perf_counter()
