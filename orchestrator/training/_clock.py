"""Measure the time of an epoch by part; on a GPU by device events, so that no step waits."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


class Clock:
    """Seconds per part of the work since the last `reset`; other time belongs to no part."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self.start = time.perf_counter()

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the time of the block to `part`."""
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
        """Yield the items, and count the time that producing them takes to `part`."""
        while True:
            with self.measure(part):
                item = next(items, None)
            if item is None:
                return
            yield item

    def reset(self) -> dict[str, float]:
        """Return the seconds so far by part, and their total as `epoch`; then restart.

        On a GPU this waits for the device, once an epoch.
        """
        if self.events:
            torch.cuda.synchronize(self.device)
        for part, first, last in self.events:
            self.seconds[part] += first.elapsed_time(last) / 1000
        seconds = {**self.seconds, "epoch": time.perf_counter() - self.start}
        self.restart()
        return seconds

    def restart(self) -> None:
        """Restart, and discard the time so far."""
        self.seconds, self.events, self.start = defaultdict(float), [], time.perf_counter()
