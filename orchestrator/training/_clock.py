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

    def measure(self, part: str) -> contextlib.AbstractContextManager[None]:
        """Count the time of the block to `part`."""
        return (_DeviceTime if self.device.type == "cuda" else _HostTime)(self, part)

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


class _HostTime:
    """Add the time of a block to a part; a class, as a generator would take three times as long."""

    __slots__ = ("clock", "part", "start")

    def __init__(self, clock: Clock, part: str) -> None:
        self.clock, self.part = clock, part

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.clock.seconds[self.part] += time.perf_counter() - self.start


class _DeviceTime:
    """Record events of the device around a block of a part."""

    __slots__ = ("clock", "first", "last", "part")

    def __init__(self, clock: Clock, part: str) -> None:
        self.clock, self.part = clock, part

    def __enter__(self) -> None:
        self.first, self.last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self.first.record()

    def __exit__(self, error: object, *_: object) -> None:
        if error is None:  # else the device may be unusable
            self.last.record()
            self.clock.events.append((self.part, self.first, self.last))
