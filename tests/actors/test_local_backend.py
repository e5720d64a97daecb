"""Test the local dispatcher without Ray: its reports of a trial, and its timeouts."""

import pdb
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.cluster import _execution, local_backend
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
        dispatcher.reports.put(("trial", EpochRecord(1, {})))

    dispatcher.reports = Passing(
        clock, [dispatcher.heartbeat, dispatcher.heartbeat, dispatcher.heartbeat, end]
    )
    assert dispatcher.next_report("trial", SILENCE_S) == EpochRecord(1, {})
    assert clock.now > 100 + 2 * SILENCE_S


def test_the_timeout_starts_at_the_last_heartbeat(clock: Clock) -> None:
    dispatcher = LocalDispatcher()
    ended = threading.Thread(target=int)
    dispatcher.trainings["trial"] = local_backend._Training(ended)
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

    monkeypatch.setattr(_execution, "execute", trained)
    dispatcher = LocalDispatcher()
    dispatcher.submit(specify("teacher=null", "method.name=cross_entropy"))
    assert dispatcher.reports.get(timeout=60) == ("trial", EpochRecord(1, {}))
    assert dispatcher.last_heartbeat == clock.now == 107


@pytest.mark.parametrize("own", [True, False])
def test_an_environment_error_fails_no_trial(
    own: bool, specify: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(spec: Any, context: TrialContext) -> None:
        context.note("the disk is full")
        raise TrialError("it diverged") if own else OSError(116, "Stale file handle")

    monkeypatch.setattr(_execution, "execute", trained)
    notes: list[str] = []
    dispatcher = LocalDispatcher(notes.append)
    dispatcher.submit(specify("teacher=null", "method.name=cross_entropy"))
    if own:
        assert dispatcher.next_report("trial", 60) == TrialFailure("it diverged")
    else:
        with refused("trial", "OSError: [Errno 116] Stale file handle", error=PreflightError):
            dispatcher.next_report("trial", 60)
    assert notes == ["the disk is full"]


def test_a_trial_starts_after_the_one_before_it_and_a_stopped_one_reports_nothing(
    specify: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    running, released = threading.Event(), threading.Event()

    def trained(spec: Any, context: TrialContext) -> None:
        begun.append(spec.name)
        context.report(EpochRecord(1, {}))
        running.set()
        while not context.stop_requested():
            released.wait(0.01)
        released.wait()
        context.report(EpochRecord(2, {}))

    monkeypatch.setattr(_execution, "execute", trained)
    dispatcher = LocalDispatcher()
    spec = specify("teacher=null", "method.name=cross_entropy")
    for name in "abc":
        dispatcher.submit(spec.model_copy(update={"name": name}))
    assert running.wait(60)
    dispatcher.stop("a")
    dispatcher.stop("b")
    assert begun == ["a"] and not dispatcher.is_released("a")
    released.set()
    assert dispatcher.next_report("c", 60) == EpochRecord(1, {})
    assert begun == ["a", "c"] and dispatcher.is_released("a") and dispatcher.is_released("b")
    assert dispatcher.next_event(60, until=0) is None, "the others have reported nothing more"
    dispatcher.close(60)
    assert dispatcher.is_released("c")


def test_a_debugger_that_waits_for_input_is_a_heartbeat(
    specify: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    class Prompt(pdb.Pdb):
        """A debugger whose user takes a while, then continues."""

        def interaction(self, *arguments: Any) -> None:
            answered.wait()
            self.set_continue()

    def trained(spec: Any, context: TrialContext) -> None:
        Prompt(nosigint=True).set_trace()
        context.report(EpochRecord(1, {}))

    monkeypatch.setattr(_execution, "execute", trained)
    dispatcher = LocalDispatcher()
    dispatcher.submit(specify("teacher=null", "method.name=cross_entropy"))
    assert dispatcher.next_event(0.01, until=time.monotonic() + 0.5) is None
    answered.set()
    assert dispatcher.next_report("trial", 60) == EpochRecord(1, {})
