"""Test the local dispatcher without Ray: its reports of a trial, and its timeouts."""

import queue
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.cluster import local_backend
from orchestrator.cluster.local_backend import LocalDispatcher
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import PreflightError, TrialError
from orchestrator.core.reports import EpochRecord, TrialFailure
from tests.refusal import refused

SILENCE_S = 10.0
Specify = Callable[..., Any]


class Clock:
    """A simulated clock."""

    now = 100.0

    def monotonic(self) -> float:
        """Return the simulated time, as `time` would."""
        return self.now


class Passing(queue.Queue[Any]):
    """A queue that stays empty; `meanwhile` holds an action per wait, `waits` the durations."""

    def __init__(self, clock: Clock, meanwhile: list[Callable[[], None]]) -> None:
        super().__init__()
        self.clock, self.meanwhile, self.waits = clock, meanwhile, list[float]()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return an available record, or let the timeout pass."""
        if self.qsize():
            return super().get()
        assert timeout is not None
        self.waits.append(timeout)
        self.clock.now += timeout / 2
        self.meanwhile.pop(0)()
        self.clock.now += timeout / 2
        raise queue.Empty


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    simulated_clock = Clock()
    monkeypatch.setattr(local_backend, "time", simulated_clock)
    return simulated_clock


def test_an_epoch_with_heartbeats_may_exceed_the_timeout(clock: Clock) -> None:
    dispatcher = LocalDispatcher()

    def end() -> None:
        dispatcher.heartbeat()
        dispatcher.reports.put(EpochRecord(1, {}))

    dispatcher.reports = Passing(
        clock, [dispatcher.heartbeat, dispatcher.heartbeat, dispatcher.heartbeat, end]
    )
    assert dispatcher.next_report("trial", SILENCE_S) == EpochRecord(1, {})
    assert clock.now > 100 + 2 * SILENCE_S


def test_the_timeout_starts_at_the_last_heartbeat(clock: Clock) -> None:
    dispatcher = LocalDispatcher()
    waiting = dispatcher.reports = Passing(clock, [dispatcher.heartbeat, lambda: None])
    with refused(
        "resources.heartbeat_timeout_s", SILENCE_S, "longer than startup takes", PreflightError
    ):
        dispatcher.next_report("trial", SILENCE_S)
    assert waiting.waits == [SILENCE_S, SILENCE_S / 2], (
        "the heartbeat came in the middle of the first wait"
    )


def test_training_sends_heartbeats_to_the_dispatcher(
    clock: Clock, specify: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(spec: Any, context: TrialContext) -> None:
        clock.now += 7
        context.heartbeat()
        context.report(EpochRecord(1, {}))

    monkeypatch.setattr(local_backend, "execute", trained)
    dispatcher = LocalDispatcher()
    dispatcher.submit(specify("teacher=null", "method.name=cross_entropy"))
    assert dispatcher.reports.get(timeout=60) == EpochRecord(1, {})
    assert dispatcher.last_heartbeat == clock.now == 107


@pytest.mark.parametrize("own", [True, False])
def test_an_environment_error_fails_no_trial(
    own: bool, specify: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(spec: Any, context: TrialContext) -> None:
        context.note("the disk is full")
        raise TrialError("it diverged") if own else OSError(116, "Stale file handle")

    monkeypatch.setattr(local_backend, "execute", trained)
    notes: list[str] = []
    dispatcher = LocalDispatcher(notes.append)
    dispatcher.submit(specify("teacher=null", "method.name=cross_entropy"))
    if own:
        assert dispatcher.next_report("trial", 60) == TrialFailure("it diverged")
    else:
        with refused("trial", "OSError: [Errno 116] Stale file handle", error=PreflightError):
            dispatcher.next_report("trial", 60)
    assert notes == ["the disk is full"]
