"""Test the messages between the dispatcher and a watchdog, and their loss, without Ray."""

import asyncio

from orchestrator.cluster._dispatcher import SHORT, Dispatcher
from tests.actors.test_dispatcher import LONG_S, SHORT_S


def test_a_sign_of_life_ends_the_silence_and_says_what_is_done() -> None:
    async def play() -> None:
        desk = Dispatcher(groups=2, max_failures=0)
        await desk.submit("a", {})
        await desk.take(1, LONG_S)
        desk.trials["a"].heard -= 1e6
        (seen,) = (await desk.overview())["trials"]
        assert seen["silent_s"] > 1e6 - 1 and seen["doing"] == "its start"
        await desk.alive("a", 0, "nothing that this group does")
        assert (await desk.overview())["trials"][0]["silent_s"] > 1e6 - 1, "who does not hold it is not heard"
        await desk.alive("a", 1, "epoch 3")
        (seen,) = (await desk.overview())["trials"]
        assert seen["silent_s"] < LONG_S and (seen["name"], seen["group"], seen["doing"]) == ("a", 1, "epoch 3")

    asyncio.run(play())


def test_who_waits_is_seen_where_no_group_holds_anything() -> None:
    async def play() -> None:
        desk = Dispatcher(groups=2, max_failures=0)
        await desk.submit("a", {})
        await desk.submit("b", {})
        desk.trials["a"].heard -= 1e6
        assert [each["name"] for each in (await desk.overview())["trials"]] == ["b"], "the one that waits since last"
        await desk.take(0, LONG_S)
        assert [(each["name"], each["group"]) for each in (await desk.overview())["trials"]] == [("a", 0)]
        await desk.give_back(0, "a")
        await desk.close()
        assert (await desk.overview())["trials"] == []

    asyncio.run(play())


def test_a_group_that_is_replaced_names_its_workers_once_and_comes_back_to_its_trial() -> None:
    async def play() -> None:
        desk = Dispatcher(groups=1, max_failures=1)
        await desk.submit("a", {})
        await desk.take(0, LONG_S)
        for rank in range(2):
            await desk.enlist(0, rank, f"worker {rank}")
        assert (await desk.overview())["trials"][0]["workers"] == 2
        desk.trials["a"].heard -= 1e6
        assert await desk.dismiss(0) == ["worker 0", "worker 1"]
        (seen,) = (await desk.overview())["trials"]
        assert seen["workers"] == 0 and seen["silent_s"] < LONG_S, "it has its time to come back"
        assert await desk.dismiss(0) == []
        assert await desk.take(0, LONG_S) == ("a", {})
        assert await desk.take(0, SHORT_S) is None
        assert "its worker died 2 times" in (await desk.next_report("a", LONG_S))["failed"]

    asyncio.run(play())


def test_what_a_group_gave_up_for_is_told_with_the_death() -> None:
    async def play() -> None:
        desk = Dispatcher(groups=2, max_failures=1)
        await desk.submit("a", {})
        await desk.take(0, LONG_S)
        await desk.excuse("a", "OSError: stale file handle", 0)
        await desk.excuse("a", "it does not hold it", 1)
        assert await desk.take(0, LONG_S) == ("a", {})
        (note,) = (await desk.overview())["notes"]
        assert note == (
            "a goes on from its checkpoint: its worker died (1 of 1 deaths that resources.max_failures allows): "
            "OSError: stale file handle"
        )
        assert (await desk.overview())["notes"] == [], "each is fetched once"
        assert await desk.take(0, SHORT_S) is None
        short = SHORT.format(recipe="training")
        failed = f"its worker died 2 times (resources.max_failures = 1){short}"
        assert await desk.next_report("a", LONG_S) == {"failed": failed}, "of the second death no reason is known"

    asyncio.run(play())


def test_a_sentence_of_several_workers_is_told_once() -> None:
    async def play() -> None:
        desk = Dispatcher(groups=1, max_failures=0)
        for _ in range(3):
            await desk.say("the disk is full")
        assert (await desk.overview())["notes"] == ["the disk is full"]

    asyncio.run(play())


def test_what_another_group_reports_is_dropped() -> None:
    async def play() -> None:
        desk = Dispatcher(groups=2, max_failures=1)
        await desk.submit("a", {})
        await desk.take(0, LONG_S)
        await desk.report("a", {"failed": "a ghost"}, 1)
        await desk.report("a", {"epoch": 1}, 0)
        assert await desk.next_report("a", LONG_S) == {"epoch": 1}
        await desk.report("nobody", {"epoch": 1}, 0)

    asyncio.run(play())


def test_an_answer_that_was_lost_is_given_again() -> None:
    async def play() -> None:
        desk = Dispatcher(groups=1, max_failures=0)
        await desk.submit("a", {}, "token")
        await desk.submit("a", {}, "token")
        assert list(desk.waiting) == ["a"], "said twice, it counts once"
        await desk.take(0, LONG_S)
        for epoch in (1, 2):
            await desk.report("a", {"epoch": epoch})
        assert await desk.next_report("a", LONG_S, 0) == {"epoch": 1}
        assert await desk.next_report("a", LONG_S, 0) == {"epoch": 1}
        assert await desk.next_report("a", LONG_S, 1) == {"epoch": 2}

    asyncio.run(play())


def test_a_tune_process_is_watched_until_it_deregisters() -> None:
    async def play() -> None:
        desk = Dispatcher(groups=1, max_failures=0)
        await desk.submit("a", {})
        await desk.attend("first", "a", "process 1")
        desk.readers["first"].heard -= 1e6
        (seen,) = (await desk.overview())["readers"]
        assert (seen["reader"], seen["name"]) == ("first", "a") and seen["silent_s"] > 1e6 - 1
        await desk.attend("second", "a", "process 2")  # Tune started it in place of the other one
        (seen,) = (await desk.overview())["readers"]
        assert seen["reader"] == "second" and seen["silent_s"] < LONG_S
        await desk.take(0, 0.0)
        await desk.report("a", {"epoch": 1, "metrics": {}, "done": True}, 0)
        await desk.give_back(0, "a")
        desk.readers["second"].heard -= 1e6
        (seen,) = (await desk.overview())["readers"]
        assert seen["silent_s"] > 1e6 - 1, "a process that is stopped with the last record of its trial unread is replaced"
        await desk.submit("b", {})
        await desk.attend("second", "b", "process 2")
        assert [each["name"] for each in (await desk.overview())["readers"]] == ["b"]
        assert await desk.forget_reader("second") == "process 2" and await desk.forget_reader("second") is None
        assert (await desk.overview())["readers"] == []

    asyncio.run(play())
