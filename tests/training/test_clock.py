"""Test the clock: host time on a CPU, events that are read once on a GPU."""

from typing import Any

import pytest
import torch

from orchestrator.training._clock import Clock

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


class Event:
    """A GPU event with the number of earlier events as its time."""

    count = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        """Set the time of the event."""
        Event.count += 1
        self.moment = Event.count

    def elapsed_time(self, other: "Event") -> float:
        """Return milliseconds."""
        return float(other.moment - self.moment)


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the synchronised devices, with events that need no GPU."""
    waits: list[Any] = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    return waits


def test_gpu_clock_synchronises_only_at_the_reset(waited: list[Any]) -> None:
    clock = Clock(GPU)
    for _ in range(3):
        with clock.measure("student"):
            pass
    assert list(clock.iterate("data", iter("ab"))) == ["a", "b"]
    assert not waited
    seconds = clock.reset()
    assert waited == [GPU]
    assert seconds["student"] == pytest.approx(0.003) and seconds["data"] == pytest.approx(0.003), (
        "one millisecond for each measurement"
    )


def test_cpu_clock_does_not_synchronise(waited: list[Any]) -> None:
    clock = Clock(CPU)
    with clock.measure("student"):
        pass
    assert clock.reset()["student"] > 0 and not waited


def test_a_block_that_fails_records_no_event(waited: list[Any]) -> None:
    clock = Clock(GPU)
    with pytest.raises(ValueError, match="fails"), clock.measure("student"):
        raise ValueError("fails")
    assert "student" not in clock.reset() and not waited


def test_parts_lie_within_the_epoch_and_a_reset_restarts() -> None:
    clock = Clock(CPU)
    with clock.measure("student"):
        sum(range(10_000))
    clock.add("report", 0.25)
    seconds = clock.reset()
    assert 0 < seconds["student"] <= seconds["epoch"] and seconds["report"] == 0.25
    again = clock.reset()
    assert set(again) == {"epoch"} and again["epoch"] < seconds["epoch"] + 0.25
