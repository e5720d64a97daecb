"""Test the messages between the dispatcher and a watchdog, and their loss, without Ray."""

import asyncio

from orchestrator.cluster._dispatcher import SHORT, Dispatcher
from tests.actors.test_dispatcher import LONG_S, SHORT_S


def test_a_sign_of_life_ends_the_silence_and_says_what_is_done() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=2, max_failures=0)
        await dispatcher_client.submit("a", {})
        await dispatcher_client.take(1, LONG_S)
        dispatcher_client.trials["a"].heard -= 1e6
        (seen,) = (await dispatcher_client.overview())["trials"]
        assert seen["silent_s"] > 1e6 - 1 and seen["doing"] == "its start"
        await dispatcher_client.alive("a", 0, "nothing that this group does")
        assert (await dispatcher_client.overview())["trials"][0]["silent_s"] > 1e6 - 1, (
            "who does not hold it is not heard"
        )
        await dispatcher_client.alive("a", 1, "epoch 3")
        (seen,) = (await dispatcher_client.overview())["trials"]
        assert seen["silent_s"] < LONG_S and (seen["name"], seen["group"], seen["doing"]) == (
            "a",
            1,
            "epoch 3",
        )

    asyncio.run(play())


def test_who_waits_is_seen_where_no_group_holds_anything() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=2, max_failures=0)
        await dispatcher_client.submit("a", {})
        await dispatcher_client.submit("b", {})
        dispatcher_client.trials["a"].heard -= 1e6
        assert [each["name"] for each in (await dispatcher_client.overview())["trials"]] == ["b"], (
            "the one that waits since last"
        )
        await dispatcher_client.take(0, LONG_S)
        assert [
            (each["name"], each["group"]) for each in (await dispatcher_client.overview())["trials"]
        ] == [("a", 0)]
        await dispatcher_client.give_back(0, "a")
        await dispatcher_client.close()
        assert (await dispatcher_client.overview())["trials"] == []

    asyncio.run(play())


def test_a_group_that_is_replaced_names_its_workers_once_and_comes_back_to_its_trial() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=1)
        await dispatcher_client.submit("a", {})
        await dispatcher_client.take(0, LONG_S)
        for rank in range(2):
            await dispatcher_client.enlist(0, rank, f"worker {rank}")
        assert (await dispatcher_client.overview())["trials"][0]["workers"] == 2
        dispatcher_client.trials["a"].heard -= 1e6
        assert await dispatcher_client.dismiss(0) == ["worker 0", "worker 1"]
        (seen,) = (await dispatcher_client.overview())["trials"]
        assert seen["workers"] == 0 and seen["silent_s"] < LONG_S, "it has its time to come back"
        assert await dispatcher_client.dismiss(0) == []
        assert await dispatcher_client.take(0, LONG_S) == ("a", {})
        assert await dispatcher_client.take(0, SHORT_S) is None
        assert (
            "its worker died 2 times"
            in (await dispatcher_client.next_report("a", LONG_S))["failed"]
        )

    asyncio.run(play())


def test_what_a_group_gave_up_for_is_told_with_the_death() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=2, max_failures=1)
        await dispatcher_client.submit("a", {})
        await dispatcher_client.take(0, LONG_S)
        await dispatcher_client.excuse("a", "OSError: stale file handle", 0)
        await dispatcher_client.excuse("a", "it does not hold it", 1)
        assert await dispatcher_client.take(0, LONG_S) == ("a", {})
        (note,) = (await dispatcher_client.overview())["notes"]
        assert note == (
            "a goes on from its checkpoint: its worker died (1 of 1 deaths that "
            "resources.max_failures allows): "
            "OSError: stale file handle"
        )
        assert (await dispatcher_client.overview())["notes"] == [], "each is fetched once"
        assert await dispatcher_client.take(0, SHORT_S) is None
        short = SHORT.format(recipe="training")
        failed = f"its worker died 2 times (resources.max_failures = 1){short}"
        assert await dispatcher_client.next_report("a", LONG_S) == {"failed": failed}, (
            "of the second death no reason is known"
        )

    asyncio.run(play())


def test_a_sentence_of_several_workers_is_told_once() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=0)
        for _ in range(3):
            await dispatcher_client.say("the disk is full")
        assert (await dispatcher_client.overview())["notes"] == ["the disk is full"]

    asyncio.run(play())


def test_what_another_group_reports_is_dropped() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=2, max_failures=1)
        await dispatcher_client.submit("a", {})
        await dispatcher_client.take(0, LONG_S)
        await dispatcher_client.report("a", {"failed": "a ghost"}, 1)
        await dispatcher_client.report("a", {"epoch": 1}, 0)
        assert await dispatcher_client.next_report("a", LONG_S) == {"epoch": 1}
        await dispatcher_client.report("nobody", {"epoch": 1}, 0)

    asyncio.run(play())


def test_an_answer_that_was_lost_is_given_again() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=0)
        await dispatcher_client.submit("a", {}, "token")
        await dispatcher_client.submit("a", {}, "token")
        assert list(dispatcher_client.waiting) == ["a"], "said twice, it counts once"
        await dispatcher_client.take(0, LONG_S)
        for epoch in (1, 2):
            await dispatcher_client.report("a", {"epoch": epoch})
        assert await dispatcher_client.next_report("a", LONG_S, 0) == {"epoch": 1}
        assert await dispatcher_client.next_report("a", LONG_S, 0) == {"epoch": 1}
        assert await dispatcher_client.next_report("a", LONG_S, 1) == {"epoch": 2}

    asyncio.run(play())


def test_a_tune_process_is_watched_until_it_deregisters() -> None:
    async def play() -> None:
        dispatcher_client = Dispatcher(groups=1, max_failures=0)
        await dispatcher_client.submit("a", {})
        await dispatcher_client.attend("first", "a", "process 1")
        dispatcher_client.readers["first"].heard -= 1e6
        (seen,) = (await dispatcher_client.overview())["readers"]
        assert (seen["reader"], seen["name"]) == ("first", "a") and seen["silent_s"] > 1e6 - 1
        await dispatcher_client.attend(
            "second", "a", "process 2"
        )  # Tune started it in place of the other one
        (seen,) = (await dispatcher_client.overview())["readers"]
        assert seen["reader"] == "second" and seen["silent_s"] < LONG_S
        await dispatcher_client.take(0, 0.0)
        await dispatcher_client.report("a", {"epoch": 1, "metrics": {}, "done": True}, 0)
        await dispatcher_client.give_back(0, "a")
        dispatcher_client.readers["second"].heard -= 1e6
        (seen,) = (await dispatcher_client.overview())["readers"]
        assert seen["silent_s"] > 1e6 - 1, (
            "a process that is stopped with the last record of its trial unread is replaced"
        )
        await dispatcher_client.submit("b", {})
        await dispatcher_client.attend("second", "b", "process 2")
        assert [each["name"] for each in (await dispatcher_client.overview())["readers"]] == ["b"]
        assert (
            await dispatcher_client.forget_reader("second") == "process 2"
            and await dispatcher_client.forget_reader("second") is None
        )
        assert (await dispatcher_client.overview())["readers"] == []

    asyncio.run(play())
