"""Test a restarted, empty dispatcher without Ray: no trial is lost or trained twice at a time."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import ray

from orchestrator.cluster import dispatcher_client as dispatcher_clients
from orchestrator.cluster._controllers import ANSWER_S
from orchestrator.cluster._dispatcher import Dispatcher
from orchestrator.cluster.dispatcher_client import DispatcherClient, wait_for_answer
from orchestrator.config.trial import TrialSpec
from orchestrator.core.errors import DispatcherTimeoutError, PreflightError
from orchestrator.core.reports import EpochRecord
from tests.actors.answers import spec
from tests.actors.test_dispatcher import LONG_S, SHORT_S, settle
from tests.refusal import refused


def test_no_trial_is_assigned_before_every_group_is_free() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0, restarted=True)
        await dispatcher.submit(spec("a"))
        first = asyncio.create_task(dispatcher.take_trial(0, LONG_S))
        await settle()
        assert not first.done(), "the list of groups is missing"
        await dispatcher.recover([0, 1])
        await settle()
        assert not first.done() and dispatcher.unreported_groups == {1}, "group 1 may still train a"
        await dispatcher.report("a", EpochRecord(7, {}), 1)
        await dispatcher.release_trial(1, "a")  # it noticed that the dispatcher had died
        assert await first == spec("a")
        assert await dispatcher.next_reports("a", SHORT_S) == (), (
            "the next group repeats the reports sent to the old dispatcher"
        )

    asyncio.run(play())


def test_the_folder_of_a_trial_is_not_free_before_every_group_is() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=2, max_failures=0, restarted=True)
        assert not await dispatcher.is_released("a", SHORT_S)
        await dispatcher.recover([0, 1])
        waits = asyncio.create_task(dispatcher.is_released("a", LONG_S))
        await dispatcher.take_trial(0, SHORT_S)
        await settle()
        assert not waits.done()
        await dispatcher.take_trial(1, SHORT_S)
        assert await waits

    asyncio.run(play())


@pytest.mark.parametrize("first", ["the end", "the list"])
def test_a_group_that_ended_meanwhile_is_not_waited_for(first: str) -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=2, max_failures=0, restarted=True)
        await dispatcher.submit(spec("a"))
        if first == "the end":
            await dispatcher.group_ended(1, "gone", lost=True)
        await dispatcher.recover([0, 1])
        if first == "the list":
            await dispatcher.group_ended(1, "gone", lost=True)
        assert dispatcher.groups == {0} == dispatcher.unreported_groups
        assert await dispatcher.take_trial(0, LONG_S) == spec("a")

    asyncio.run(play())


def test_groups_added_later_are_registered_and_a_second_list_is_ignored() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0, restarted=True)
        await dispatcher.take_trial(5, SHORT_S)
        await dispatcher.recover([0, 4])
        assert dispatcher.groups == {0, 4, 5} and dispatcher.unreported_groups == {0, 4}
        await dispatcher.recover([9])
        assert dispatcher.groups == {0, 4, 5}
        await dispatcher.take_trial(6, SHORT_S)
        assert 6 in dispatcher.groups, "a group that requests a trial is registered"

    asyncio.run(play())


class Ray:
    """Successive dispatchers behind `ray.get`; `deaths` lists the calls that start a new one."""

    def __init__(self, deaths: dict[int, str], groups: int = 1) -> None:
        self.deaths, self.calls, self.loop = deaths, 0, asyncio.new_event_loop()
        self.dispatcher, self.groups = Dispatcher(groups, 1), groups
        self.before: Callable[[Dispatcher], Any] = lambda dispatcher: None

    def __getattr__(self, name: str) -> Any:
        call = lambda *arguments: lambda: getattr(self.dispatcher, name)(*arguments)  # noqa: E731
        return type("Method", (), {"remote": staticmethod(call)})

    def get(self, call: Any, timeout: float) -> Any:
        """Return the answer, or lose it before or after the call, perhaps with the dispatcher."""
        self.calls += 1
        how = self.deaths.pop(self.calls, "")
        if how != "before":
            self.before(self.dispatcher)
            answer = self.loop.run_until_complete(call())
            if not how:
                return answer
        if how in ("before", "after"):
            self.dispatcher = Dispatcher(self.groups, 1, restarted=True)
            self.loop.run_until_complete(self.dispatcher.recover(range(self.groups)))
        raise ray.exceptions.ActorUnavailableError("unavailable", None)


def play(
    monkeypatch: pytest.MonkeyPatch, deaths: dict[int, str], known: int | None
) -> tuple[list[Any], list[TrialSpec]]:
    """Return the reports of a trial of three epochs, and the assignments to its group."""
    fake, assignments = Ray(deaths), list[TrialSpec]()
    remaining: dict[Dispatcher, list[int]] = {}

    def train(dispatcher: Dispatcher) -> None:
        """Take the trial, and report an epoch unknown to the driver before each call."""
        run = fake.loop.run_until_complete
        if dispatcher not in remaining:
            taken = run(dispatcher.take_trial(0, SHORT_S))
            if not isinstance(taken, TrialSpec):
                return
            assignments.append(taken)
            remaining[dispatcher] = list(range((taken.known or 0) + 1, 4))
        if remaining[dispatcher]:
            epoch = remaining[dispatcher].pop(0)
            run(dispatcher.report("a", EpochRecord(epoch, {}, done=epoch == 3), 0))
            if epoch == 3:
                run(dispatcher.release_trial(0, "a"))

    fake.before = train
    monkeypatch.setattr("orchestrator.cluster.dispatcher_client.ray.get", fake.get)
    monkeypatch.setattr(dispatcher_clients, "PAUSE_S", 0)
    dispatcher_client = DispatcherClient("dispatcher", fake)
    dispatcher_client.submit(spec("a", known=known))  # None: as in teacher training
    return [dispatcher_client.next_report("a", LONG_S) for _ in range(3)], assignments


@pytest.mark.parametrize("how", ["before", "after", "lost"])
@pytest.mark.parametrize("call", range(1, 6))
@pytest.mark.parametrize("known", [None, 0])
def test_a_reader_receives_every_epoch_once_whenever_the_dispatcher_dies(
    how: str, call: int, known: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, assignments = play(monkeypatch, {call: how}, known)
    assert [record.epoch for record in records] == [1, 2, 3] and records[-1].done
    assert all(taken.name == "a" for taken in assignments) and len(assignments) <= 2


def test_a_resubmission_contains_the_last_epoch_that_the_driver_received(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, assignments = play(monkeypatch, {4: "before"}, 0)  # one call submits, two return an epoch
    assert [taken.known for taken in assignments] == [0, 2]


def test_a_dispatcher_that_does_not_come_back_is_an_environment_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(call: Any, timeout: float) -> Any:
        raise ray.exceptions.ActorDiedError()

    monkeypatch.setattr("orchestrator.cluster.dispatcher_client.ray.get", away)
    monkeypatch.setattr(dispatcher_clients, "PAUSE_S", 0)
    with refused("dispatcher", "ActorDiedError", "an answer within 0.01 s", DispatcherTimeoutError):
        wait_for_answer(lambda: None, patience_s=0.01)


def test_giving_up_raises_a_preflight_error_in_waiting_readers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Ray({})
    monkeypatch.setattr("orchestrator.cluster.dispatcher_client.ray.get", fake.get)
    dispatcher_client = DispatcherClient("dispatcher", fake)
    dispatcher_client.submit(spec("a"))
    dispatcher_client.give_up("no worker group is left")
    with refused("trial", "no worker group is left", error=PreflightError):
        dispatcher_client.next_report("a", LONG_S)


def test_replacing_a_group_kills_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Ray({})
    killed: list[Any] = []
    monkeypatch.setattr("orchestrator.cluster.dispatcher_client.ray.get", fake.get)
    monkeypatch.setattr(
        "orchestrator.cluster.dispatcher_client.ray.kill",
        lambda worker, no_restart: killed.append((worker, no_restart)),
    )
    controllers: list[tuple[str, float]] = []
    monkeypatch.setattr(
        dispatcher_clients,
        "end_controller",
        lambda run, answer_s=0.0: controllers.append((run, answer_s)),
    )
    dispatcher_client = DispatcherClient("dispatcher", fake)
    for rank in range(2):
        fake.loop.run_until_complete(fake.dispatcher.register_worker(0, rank, f"worker {rank}"))
    assert dispatcher_client.replace(0) and killed == [("worker 0", True), ("worker 1", True)]
    assert not dispatcher_client.replace(0)
    assert controllers == [("dispatcher-group-0", ANSWER_S)] * 2, (
        "a controller that answers is kept and starts new workers"
    )
    dispatcher_client.remove_lost_group(0, "it did not restart")
    assert controllers[2:] == [("dispatcher-group-0", 0.0)] and fake.dispatcher.ended_groups == {0}


def test_a_long_call_does_not_count_towards_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that fails after a minute is retried like one that fails at once."""
    now, calls = 0.0, 0

    def late(call: Any, timeout: float) -> Any:
        nonlocal now, calls
        calls += 1
        if calls > 1:
            return "an answer"
        now += 60.0
        raise ray.exceptions.ActorDiedError()

    monkeypatch.setattr("orchestrator.cluster.dispatcher_client.ray.get", late)
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr(dispatcher_clients, "PAUSE_S", 0)
    assert wait_for_answer(lambda: None, patience_s=8.0) == "an answer" and calls == 2
