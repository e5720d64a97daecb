"""Test the dispatcher without Ray: order, restarts, stops, ended groups."""

import asyncio
from typing import Any

import pytest

from orchestrator.cluster._dispatcher import CLOSE, MEMORY_HINT, Dispatcher
from orchestrator.cluster.dispatcher_client import DispatcherClient
from orchestrator.config.trial import TrialSpec
from orchestrator.core.reports import EpochRecord, NoWorkers, Report, TrialFailure
from tests.actors.answers import next_failure, next_record, next_records, spec

LONG_S = 30.0  # never reached: the awaited events have happened
SHORT_S = 0.001  # wait without an event
TURNS = 20  # turns of the event loop: more than any call needs


async def settle(turns: int = TURNS) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def has_no_record(dispatcher: Dispatcher, name: str) -> bool:
    return await dispatcher.next_reports(name, SHORT_S) == ()


def test_trials_are_assigned_in_submission_order() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=2, max_failures=0)
        for name in ("a", "b", "c"):
            await dispatcher.submit(spec(name))
        assert await dispatcher.take_trial(1, LONG_S) == spec("a")
        assert await dispatcher.take_trial(0, LONG_S) == spec("b")
        await dispatcher.release_trial(1, "a")
        assert await dispatcher.take_trial(1, LONG_S) == spec("c")
        await dispatcher.release_trial(1, "c")
        assert await dispatcher.take_trial(1, SHORT_S) is None

    asyncio.run(play())


def test_each_waiting_group_gets_a_trial() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=3, max_failures=0)
        takers = [asyncio.create_task(dispatcher.take_trial(group, LONG_S)) for group in range(3)]
        await settle()
        for name in ("a", "b", "c"):
            await dispatcher.submit(spec(name))
        taken = await asyncio.gather(*takers)
        assert sorted(job.name for job in taken if isinstance(job, TrialSpec)) == ["a", "b", "c"]

    asyncio.run(play())


def test_one_reader_takes_over_a_submission() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        await dispatcher.submit(spec("a"), "token")
        assert not await dispatcher.attach("a", "other") and not await dispatcher.attach("b", "")
        assert await dispatcher.attach("a", "token")
        assert not await dispatcher.attach("a", "token"), "it may lack answers"
        await dispatcher.submit(spec("a"), "token")  # a repetition
        assert await dispatcher.take_trial(0, LONG_S) == spec("a")
        await dispatcher.report("a", EpochRecord(1, {}), 0)
        assert (await next_record(dispatcher)).epoch == 1

    asyncio.run(play())


def test_reports_arrive_in_order_per_trial() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=2, max_failures=0)
        for group, name in enumerate("ab"):
            await dispatcher.submit(spec(name))
            await dispatcher.take_trial(group, LONG_S)
        for epoch in (1, 2, 3):
            await dispatcher.report("a", EpochRecord(epoch, {}, done=epoch == 3))
        await dispatcher.report("b", EpochRecord(1, {}))
        assert [record.epoch for record in await next_records(dispatcher)] == [1, 2, 3]
        assert await dispatcher.next_reports("b", LONG_S) == (EpochRecord(1, {}),)

    asyncio.run(play())


def test_a_report_wakes_its_reader() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        await dispatcher.submit(spec("a"))
        reader = asyncio.create_task(dispatcher.next_reports("a", LONG_S))
        await settle()
        assert not reader.done()
        await dispatcher.report("a", EpochRecord(1, {}))
        assert await reader == (EpochRecord(1, {}),)

    asyncio.run(play())


def test_a_repeated_epoch_is_dropped() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        await dispatcher.submit(spec("a"))
        for epoch in (1, 2, 2, 1, 3):
            await dispatcher.report("a", EpochRecord(epoch, {}))
        assert [record.epoch for record in await next_records(dispatcher)] == [1, 2, 3]
        assert await has_no_record(dispatcher, "a")

    asyncio.run(play())


def test_answers_are_an_interval_apart() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        await dispatcher.submit(spec("a"))
        records = [EpochRecord(epoch, {}) for epoch in (1, 2, 3)]
        await dispatcher.report("a", records[0])
        assert await dispatcher.next_reports("a", LONG_S, 0, LONG_S) == (records[0],)
        reader = asyncio.create_task(dispatcher.next_reports("a", LONG_S, 1, LONG_S))
        for record in records[1:]:
            await dispatcher.report("a", record)
            await settle()
        assert not reader.done()
        reader.cancel()  # its connection ends: nothing is lost
        dispatcher.trials["a"].last_sent -= LONG_S
        assert await dispatcher.next_reports("a", LONG_S, 1, LONG_S) == tuple(records[1:])

    asyncio.run(play())


@pytest.mark.parametrize(
    "urgent", [EpochRecord(3, {}), EpochRecord(5, {}, done=True), TrialFailure("it diverged")]
)
def test_an_end_and_a_decision_epoch_are_answered_at_once(urgent: Report) -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        await dispatcher.submit(spec("a"))
        first, second = EpochRecord(1, {}), EpochRecord(2, {})
        await dispatcher.report("a", first)
        assert await dispatcher.next_reports("a", LONG_S, 0, 2 * LONG_S, (3,)) == (first,)
        reader = asyncio.create_task(dispatcher.next_reports("a", LONG_S, 1, 2 * LONG_S, (3,)))
        await dispatcher.report("a", second)
        await settle()
        assert not reader.done()
        await dispatcher.report("a", urgent)
        await settle()
        assert await reader == (second, urgent)

    asyncio.run(play())


@pytest.mark.parametrize("end", [EpochRecord(1, {}, done=True), TrialFailure("it diverged")])
def test_reports_after_the_end_of_a_trial_are_dropped(end: Report) -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        await dispatcher.submit(spec("a"))
        await dispatcher.report("a", end)
        await dispatcher.report("a", EpochRecord(2, {}))
        await dispatcher.report("a", TrialFailure("another rank failed too"))
        assert await dispatcher.next_reports("a", LONG_S) == (end,)
        assert await has_no_record(dispatcher, "a")

    asyncio.run(play())


def test_a_stop_removes_a_queued_trial() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        for name in ("a", "b"):
            await dispatcher.submit(spec(name))
        await dispatcher.stop("a")
        assert await dispatcher.take_trial(0, LONG_S) == spec("b")

    asyncio.run(play())


def test_a_stop_notifies_the_worker_and_drops_its_late_reports() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        await dispatcher.submit(spec("a"))
        await dispatcher.take_trial(0, LONG_S)
        stop_notice = asyncio.create_task(dispatcher.wait_for_stop("a"))
        await settle()
        assert not stop_notice.done()
        await dispatcher.stop("a")
        await stop_notice
        await dispatcher.report("a", EpochRecord(1, {}))
        assert await has_no_record(dispatcher, "a")
        await dispatcher.release_trial(0, "a")
        await dispatcher.submit(spec("b"))
        assert await dispatcher.take_trial(0, LONG_S) == spec("b")

    asyncio.run(play())


def test_stopping_an_unknown_trial_does_nothing() -> None:
    asyncio.run(Dispatcher(groups=1, max_failures=0).stop("unknown"))


@pytest.mark.parametrize("turns", range(12))
def test_a_stop_at_any_moment_of_an_assignment_is_safe(turns: int) -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        taker = asyncio.create_task(dispatcher.take_trial(0, LONG_S))
        await settle()
        await dispatcher.submit(spec("a"))
        await settle(turns)
        await dispatcher.stop("a")
        await dispatcher.submit(spec("b"))
        got = await taker
        if got == spec("a"):  # it was assigned just before the stop
            await dispatcher.release_trial(0, "a")
        if got != spec("b"):
            assert await dispatcher.take_trial(0, LONG_S) == spec("b")

    asyncio.run(play())


def test_a_name_can_be_reused_and_the_worker_of_the_old_trial_is_stopped() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        await dispatcher.submit(spec("a", until=1))
        await dispatcher.take_trial(0, LONG_S)
        stop_notice = asyncio.create_task(dispatcher.wait_for_stop("a"))
        await dispatcher.report("a", TrialFailure("it diverged"))
        await settle()
        await dispatcher.submit(spec("a", until=2))
        await stop_notice
        await dispatcher.release_trial(0, "a")
        assert await dispatcher.take_trial(0, LONG_S) == spec("a", until=2)
        await dispatcher.report("a", EpochRecord(1, {}))
        assert await dispatcher.next_reports("a", LONG_S) == (EpochRecord(1, {}),)

    asyncio.run(play())


def test_the_wait_for_a_stop_ends_with_the_trial() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        await dispatcher.submit(spec("a"))
        await dispatcher.take_trial(0, LONG_S)
        stop_notice = asyncio.create_task(dispatcher.wait_for_stop("a"))
        await dispatcher.report("a", EpochRecord(1, {}, done=True))
        await dispatcher.release_trial(0, "a")
        await stop_notice
        assert await dispatcher.next_reports("a", LONG_S) == (EpochRecord(1, {}, done=True),), (
            "earlier reports are kept"
        )

    asyncio.run(play())


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_a_group_that_died_gets_its_trial_again_until_max_failures(allowed: int) -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=allowed)
        for name in ("a", "b"):
            await dispatcher.submit(spec(name))
        for _ in range(allowed + 1):
            assert await dispatcher.take_trial(0, LONG_S) == spec("a")
        assert await dispatcher.take_trial(0, LONG_S) == spec("b")
        failure, hint = (
            (await next_failure(dispatcher)).message,
            MEMORY_HINT.format(recipe="training"),
        )
        assert (
            failure
            == f"its worker died {allowed + 1} times (resources.max_failures = {allowed}){hint}"
        )

    asyncio.run(play())


@pytest.mark.parametrize("ended", ["stopped", "done"])
def test_a_group_that_died_after_the_end_of_its_trial_gets_the_next_one(ended: str) -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=5)
        for name in ("a", "b"):
            await dispatcher.submit(spec(name))
        await dispatcher.take_trial(0, LONG_S)
        await (
            dispatcher.stop("a")
            if ended == "stopped"
            else dispatcher.report("a", EpochRecord(1, {}, done=True))
        )
        assert await dispatcher.take_trial(0, LONG_S) == spec("b")
        if ended == "done":
            assert (await next_record(dispatcher)).done
        assert await has_no_record(dispatcher, "a"), "a death after the end is no failure"

    asyncio.run(play())


def test_the_request_of_a_dead_worker_gets_no_trial() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        dead = asyncio.create_task(dispatcher.take_trial(0, LONG_S))
        await settle()
        alive = asyncio.create_task(dispatcher.take_trial(0, LONG_S))
        await settle()
        await dispatcher.submit(spec("a"))
        assert await alive == spec("a")
        assert await dead is None
        assert dispatcher.trials["a"].failures == 0

    asyncio.run(play())


def test_the_request_of_an_ended_group_gets_no_trial() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=2, max_failures=0)
        dead = asyncio.create_task(dispatcher.take_trial(0, LONG_S))
        await settle()
        await dispatcher.group_ended(0, "out of memory")
        alive = asyncio.create_task(dispatcher.take_trial(1, LONG_S))
        await settle()
        await dispatcher.submit(spec("a"))
        assert await alive == spec("a")
        assert await dead is None

    asyncio.run(play())


@pytest.mark.parametrize("lost", [False, True])
def test_a_trial_survives_its_group(lost: bool) -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=2, max_failures=1)
        for group, name in enumerate("ab"):
            await dispatcher.submit(spec(name))
            await dispatcher.take_trial(group, LONG_S)
        await dispatcher.submit(spec("c"))
        assert await dispatcher.group_ended(0, "no resources", lost)
        assert (
            await has_no_record(dispatcher, "a")
            and await has_no_record(dispatcher, "b")
            and await has_no_record(dispatcher, "c")
        )
        await dispatcher.release_trial(1, "b")
        assert await dispatcher.take_trial(1, LONG_S) == spec("a"), "before queued trials"
        await dispatcher.add_group(2)
        await dispatcher.group_ended(1, "no resources", lost)
        failed = "its worker group was lost 2 times (resources.max_failures = 1): no resources"
        assert await dispatcher.next_reports("a", LONG_S) == (TrialFailure(failed),)
        assert await dispatcher.take_trial(2, LONG_S) == spec("c")
        assert not await dispatcher.group_ended(3, "it never started", lost)

    asyncio.run(play())


def test_the_end_of_the_last_group_leaves_all_trials_for_a_resume() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=2, max_failures=1)
        for name in ("a", "b", "c"):
            await dispatcher.submit(spec(name))
        await dispatcher.take_trial(0, LONG_S)
        await dispatcher.group_ended(0, "out of memory")
        await dispatcher.group_ended(1, "no GPU")
        await dispatcher.submit(spec("d"))
        for name in ("a", "b", "c", "d"):
            assert await dispatcher.next_reports(name, LONG_S) == (
                NoWorkers("no worker group is left: no GPU"),
            )
        assert not dispatcher.waiting

    asyncio.run(play())


def test_when_the_last_group_is_lost_with_its_node_trials_wait_for_another() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=1)
        await dispatcher.submit(spec("a"))
        await dispatcher.take_trial(0, LONG_S)
        await dispatcher.group_ended(0, "its node left", lost=True)
        await dispatcher.submit(spec("b"))
        assert await has_no_record(dispatcher, "a") and await has_no_record(dispatcher, "b")
        await dispatcher.add_group(1)
        assert await dispatcher.take_trial(1, LONG_S) == spec("a")

    asyncio.run(play())


def test_giving_up_fails_no_trial() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=1)
        for name in ("done", "held", "waits"):
            await dispatcher.submit(spec(name))
        await dispatcher.take_trial(0, LONG_S)
        await dispatcher.report("done", EpochRecord(1, {}, done=True))
        await dispatcher.release_trial(0, "done")
        await dispatcher.take_trial(0, LONG_S)
        await dispatcher.give_up("no answer")
        assert await dispatcher.next_reports("done", LONG_S) == (EpochRecord(1, {}, done=True),)
        for name in ("held", "waits"):
            assert await dispatcher.next_reports(name, LONG_S) == (NoWorkers("no answer"),)

    asyncio.run(play())


def test_close_wakes_waiting_groups_and_training_workers() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=3, max_failures=0)
        await dispatcher.submit(spec("a"))
        await dispatcher.take_trial(2, LONG_S)
        takers = [asyncio.create_task(dispatcher.take_trial(group, LONG_S)) for group in range(2)]
        stop_notice = asyncio.create_task(dispatcher.wait_for_stop("a"))
        await settle()
        assert not any(task.done() for task in (*takers, stop_notice))
        await dispatcher.close()
        assert await asyncio.gather(*takers) == [CLOSE, CLOSE]
        await stop_notice
        assert await dispatcher.take_trial(2, LONG_S) == CLOSE, (
            "a restarted group receives CLOSE too"
        )

    asyncio.run(play())


def test_the_client_requests_whether_a_trial_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def call(dispatcher: DispatcherClient, *arguments: Any) -> bool:
        calls.append(arguments)
        return True

    monkeypatch.setattr(DispatcherClient, "_call", call)
    assert DispatcherClient("dispatcher", None).is_released("trial-00003") and calls == [
        ("is_released", "trial-00003", 0.0)
    ]


@pytest.mark.parametrize(
    ("role", "recipe"), [("student", "training"), ("teacher", "teacher.training")]
)
def test_a_trial_that_dies_too_often_names_the_batch_size_of_its_role(
    role: str, recipe: str
) -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        await dispatcher.submit(spec("a", role=role))
        await dispatcher.take_trial(0, LONG_S)
        await dispatcher.group_ended(0, "")
        assert (
            f"if memory ran out, lower {recipe}.batch_size"
            in (await next_failure(dispatcher)).message
        )

    asyncio.run(play())
