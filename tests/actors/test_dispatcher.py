"""Test the dispatcher without Ray: order, restarts, stops, ended groups."""

import asyncio
from typing import Any

import pytest

from orchestrator.cluster._dispatcher import CLOSE, SHORT, Dispatcher
from orchestrator.cluster.dispatcher_client import DispatcherClient

LONG_S = 30.0  # never reached: the awaited events have happened
SHORT_S = 0.001  # wait without an event
TURNS = 20  # turns of the event loop: more than any call needs


async def settle(turns: int = TURNS) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


async def nothing_more(dispatcher_client: Dispatcher, name: str) -> bool:
    return await dispatcher_client.next_report(name, SHORT_S) == {}


def test_trials_are_taken_in_the_order_in_which_they_came() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=2, max_failures=0)
        for name in ("a", "b", "c"):
            await dispatcher_client.submit(name, {"of": name})
        assert await dispatcher_client.take(1, LONG_S) == ("a", {"of": "a"})
        assert await dispatcher_client.take(0, LONG_S) == ("b", {"of": "b"})
        await dispatcher_client.give_back(1, "a")
        assert await dispatcher_client.take(1, LONG_S) == ("c", {"of": "c"})
        await dispatcher_client.give_back(1, "c")
        assert await dispatcher_client.take(1, SHORT_S) is None

    asyncio.run(play())


def test_groups_that_wait_get_a_trial_each() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=3, max_failures=0)
        takers = [asyncio.create_task(dispatcher_client.take(group, LONG_S)) for group in range(3)]
        await settle()
        for name in ("a", "b", "c"):
            await dispatcher_client.submit(name, {})
        taken = await asyncio.gather(*takers)
        assert sorted(str(job[0]) for job in taken if job) == ["a", "b", "c"]

    asyncio.run(play())


def test_reports_arrive_in_order_and_each_for_its_trial() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=2, max_failures=0)
        for group, name in enumerate("ab"):
            await dispatcher_client.submit(name, {})
            await dispatcher_client.take(group, LONG_S)
        for epoch in (1, 2, 3):
            await dispatcher_client.report("a", {"epoch": epoch, "done": epoch == 3})
        await dispatcher_client.report("b", {"epoch": 1})
        assert [(await dispatcher_client.next_report("a", LONG_S))["epoch"] for _ in range(3)] == [
            1,
            2,
            3,
        ]
        assert await dispatcher_client.next_report("b", LONG_S) == {"epoch": 1}

    asyncio.run(play())


def test_a_report_wakes_who_waits_for_it() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=0)
        await dispatcher_client.submit("a", {})
        reader = asyncio.create_task(dispatcher_client.next_report("a", LONG_S))
        await settle()
        assert not reader.done()
        await dispatcher_client.report("a", {"epoch": 1})
        assert await reader == {"epoch": 1}

    asyncio.run(play())


def test_an_epoch_that_is_told_again_is_dropped() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=0)
        await dispatcher_client.submit("a", {})
        for epoch in (1, 2, 2, 1, 3):
            await dispatcher_client.report("a", {"epoch": epoch})
        assert [(await dispatcher_client.next_report("a", LONG_S))["epoch"] for _ in range(3)] == [
            1,
            2,
            3,
        ]
        assert await nothing_more(dispatcher_client, "a")

    asyncio.run(play())


@pytest.mark.parametrize("end", [{"epoch": 1, "done": True}, {"failed": "it diverged"}])
def test_nothing_is_told_of_a_trial_after_its_end(end: dict[str, Any]) -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=0)
        await dispatcher_client.submit("a", {})
        await dispatcher_client.report("a", end)
        await dispatcher_client.report("a", {"epoch": 2})
        await dispatcher_client.report("a", {"failed": "another rank says so too"})
        assert await dispatcher_client.next_report("a", LONG_S) == end
        assert await nothing_more(dispatcher_client, "a")

    asyncio.run(play())


def test_a_stop_removes_what_waits() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=0)
        for name in ("a", "b"):
            await dispatcher_client.submit(name, {})
        await dispatcher_client.stop("a")
        assert await dispatcher_client.take(0, LONG_S) == ("b", {})

    asyncio.run(play())


def test_a_stop_tells_the_worker_and_drops_its_late_reports() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=0)
        await dispatcher_client.submit("a", {})
        await dispatcher_client.take(0, LONG_S)
        told = asyncio.create_task(dispatcher_client.until_stopped("a"))
        await settle()
        assert not told.done()
        await dispatcher_client.stop("a")
        await told
        await dispatcher_client.report("a", {"epoch": 1})
        assert await nothing_more(dispatcher_client, "a")
        await dispatcher_client.give_back(0, "a")
        await dispatcher_client.submit("b", {})
        assert await dispatcher_client.take(0, LONG_S) == ("b", {})

    asyncio.run(play())


def test_stopping_a_trial_that_nobody_knows_is_nothing() -> None:
    asyncio.run(Dispatcher(groups=1, max_failures=0).stop("nobody"))


@pytest.mark.parametrize("turns", range(12))
def test_a_stop_at_any_moment_of_a_hand_over_breaks_nothing(turns: int) -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=0)
        taker = asyncio.create_task(dispatcher_client.take(0, LONG_S))
        await settle()
        await dispatcher_client.submit("a", {})
        await settle(turns)
        await dispatcher_client.stop("a")
        await dispatcher_client.submit("b", {})
        got = await taker
        if got and got[0] == "a":  # it was assigned just before the stop
            await dispatcher_client.give_back(0, "a")
        if got != ("b", {}):
            assert await dispatcher_client.take(0, LONG_S) == ("b", {})

    asyncio.run(play())


def test_a_name_may_be_used_again_and_whoever_trains_the_old_one_is_told() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=0)
        await dispatcher_client.submit("a", {"turn": 1})
        await dispatcher_client.take(0, LONG_S)
        told = asyncio.create_task(dispatcher_client.until_stopped("a"))
        await dispatcher_client.report("a", {"failed": "it diverged"})
        await settle()
        await dispatcher_client.submit("a", {"turn": 2})
        await told
        await dispatcher_client.give_back(0, "a")
        assert await dispatcher_client.take(0, LONG_S) == ("a", {"turn": 2})
        await dispatcher_client.report("a", {"epoch": 1})
        assert await dispatcher_client.next_report("a", LONG_S) == {"epoch": 1}

    asyncio.run(play())


def test_the_wait_for_a_stop_ends_with_the_trial() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=0)
        await dispatcher_client.submit("a", {})
        await dispatcher_client.take(0, LONG_S)
        told = asyncio.create_task(dispatcher_client.until_stopped("a"))
        await dispatcher_client.report("a", {"epoch": 1, "done": True})
        await dispatcher_client.give_back(0, "a")
        await told
        assert await dispatcher_client.next_report("a", LONG_S) == {"epoch": 1, "done": True}, (
            "what was told before is not lost"
        )

    asyncio.run(play())


@pytest.mark.parametrize("allowed", [0, 1, 3])
def test_a_group_that_died_gets_its_trial_again_until_it_is_given_up(allowed: int) -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=allowed)
        for name in ("a", "b"):
            await dispatcher_client.submit(name, {"of": name})
        for _ in range(allowed + 1):
            assert await dispatcher_client.take(0, LONG_S) == ("a", {"of": "a"})
        assert await dispatcher_client.take(0, LONG_S) == ("b", {"of": "b"})
        failure, short = (
            (await dispatcher_client.next_report("a", LONG_S))["failed"],
            SHORT.format(recipe="training"),
        )
        assert (
            failure
            == f"its worker died {allowed + 1} times (resources.max_failures = {allowed}){short}"
        )

    asyncio.run(play())


@pytest.mark.parametrize("ended", ["stopped", "done"])
def test_a_group_that_died_after_the_end_of_its_trial_goes_on_to_the_next(ended: str) -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=5)
        for name in ("a", "b"):
            await dispatcher_client.submit(name, {})
        await dispatcher_client.take(0, LONG_S)
        await (
            dispatcher_client.stop("a")
            if ended == "stopped"
            else dispatcher_client.report("a", {"epoch": 1, "done": True})
        )
        assert await dispatcher_client.take(0, LONG_S) == ("b", {})
        if ended == "done":
            assert (await dispatcher_client.next_report("a", LONG_S))["done"]
        assert await nothing_more(dispatcher_client, "a"), "a death after the end is no failure"

    asyncio.run(play())


def test_the_request_of_a_dead_worker_swallows_no_trial() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=0)
        dead = asyncio.create_task(dispatcher_client.take(0, LONG_S))
        await settle()
        alive = asyncio.create_task(dispatcher_client.take(0, LONG_S))
        await settle()
        await dispatcher_client.submit("a", {})
        assert await alive == ("a", {})
        assert await dead is None
        assert dispatcher_client.trials["a"].failures == 0

    asyncio.run(play())


def test_the_request_of_a_group_that_ended_swallows_no_trial() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=2, max_failures=0)
        dead = asyncio.create_task(dispatcher_client.take(0, LONG_S))
        await settle()
        await dispatcher_client.group_ended(0, "out of memory")
        alive = asyncio.create_task(dispatcher_client.take(1, LONG_S))
        await settle()
        await dispatcher_client.submit("a", {})
        assert await alive == ("a", {})
        assert await dead is None

    asyncio.run(play())


@pytest.mark.parametrize("lost", [False, True])
def test_a_trial_outlives_its_group(lost: bool) -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=2, max_failures=1)
        for group, name in enumerate("ab"):
            await dispatcher_client.submit(name, {"of": name})
            await dispatcher_client.take(group, LONG_S)
        await dispatcher_client.submit("c", {})
        assert await dispatcher_client.group_ended(0, "out of places", lost)
        assert (
            await nothing_more(dispatcher_client, "a")
            and await nothing_more(dispatcher_client, "b")
            and await nothing_more(dispatcher_client, "c")
        )
        await dispatcher_client.give_back(1, "b")
        assert await dispatcher_client.take(1, LONG_S) == ("a", {"of": "a"}), (
            "before those that wait"
        )
        await dispatcher_client.add_group(2)
        await dispatcher_client.group_ended(1, "out of places", lost)
        failed = "it lost its group 2 times (resources.max_failures = 1): out of places"
        assert await dispatcher_client.next_report("a", LONG_S) == {"failed": failed}
        assert await dispatcher_client.take(2, LONG_S) == ("c", {})
        assert not await dispatcher_client.group_ended(3, "it never began", lost)

    asyncio.run(play())


def test_the_end_of_the_last_group_leaves_all_trials_for_a_resume() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=2, max_failures=1)
        for name in ("a", "b", "c"):
            await dispatcher_client.submit(name, {})
        await dispatcher_client.take(0, LONG_S)
        await dispatcher_client.group_ended(0, "out of memory")
        await dispatcher_client.group_ended(1, "no GPU")
        await dispatcher_client.submit("d", {})
        for name in ("a", "b", "c", "d"):
            assert await dispatcher_client.next_report(name, LONG_S) == {
                "unfit": "no worker group is left: no GPU"
            }
        assert not dispatcher_client.waiting

    asyncio.run(play())


def test_when_the_last_group_is_lost_with_its_node_trials_wait_for_another() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=1)
        await dispatcher_client.submit("a", {})
        await dispatcher_client.take(0, LONG_S)
        await dispatcher_client.group_ended(0, "its node left", lost=True)
        await dispatcher_client.submit("b", {})
        assert await nothing_more(dispatcher_client, "a") and await nothing_more(
            dispatcher_client, "b"
        )
        await dispatcher_client.add_group(1)
        assert await dispatcher_client.take(1, LONG_S) == ("a", {})

    asyncio.run(play())


def test_a_run_that_is_given_up_fails_nobody() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=1)
        for name in ("done", "held", "waits"):
            await dispatcher_client.submit(name, {})
        await dispatcher_client.take(0, LONG_S)
        await dispatcher_client.report("done", {"epoch": 1, "done": True})
        await dispatcher_client.give_back(0, "done")
        await dispatcher_client.take(0, LONG_S)
        await dispatcher_client.give_up("nobody answers")
        assert await dispatcher_client.next_report("done", LONG_S) == {"epoch": 1, "done": True}
        for name in ("held", "waits"):
            assert await dispatcher_client.next_report(name, LONG_S) == {"unfit": "nobody answers"}

    asyncio.run(play())


def test_close_wakes_who_waits_for_a_trial_and_who_trains_one() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=3, max_failures=0)
        await dispatcher_client.submit("a", {})
        await dispatcher_client.take(2, LONG_S)
        takers = [asyncio.create_task(dispatcher_client.take(group, LONG_S)) for group in range(2)]
        told = asyncio.create_task(dispatcher_client.until_stopped("a"))
        await settle()
        assert not any(task.done() for task in (*takers, told))
        await dispatcher_client.close()
        assert await asyncio.gather(*takers) == [CLOSE, CLOSE]
        await told
        assert await dispatcher_client.take(2, LONG_S) == CLOSE, (
            "a group that comes back from the dead is told too"
        )

    asyncio.run(play())


def test_the_desk_asks_whether_a_trial_was_released(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def ask(dispatcher_client: DispatcherClient, *arguments: Any) -> bool:
        asked.append(arguments)
        return True

    monkeypatch.setattr(DispatcherClient, "_ask", ask)
    assert DispatcherClient("desk", None).released("trial-00003") and asked == [
        ("released", "trial-00003", 0.0)
    ]


@pytest.mark.parametrize(
    ("role", "recipe"), [("student", "training"), ("teacher", "teacher.training")]
)
def test_a_trial_that_dies_too_often_names_its_own_recipe(role: str, recipe: str) -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=0)
        await dispatcher_client.submit("a", {"role": role})
        await dispatcher_client.take(0, LONG_S)
        await dispatcher_client.group_ended(0, "")
        assert (
            f"where memory is short, lower {recipe}.batch_size"
            in (await dispatcher_client.next_report("a", LONG_S))["failed"]
        )

    asyncio.run(play())
