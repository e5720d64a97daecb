"""Test the messages between the dispatcher and a watchdog, and their loss, without Ray."""

import asyncio

from orchestrator.cluster._dispatcher import MEMORY_HINT, Dispatcher
from orchestrator.core.reports import EpochRecord, TrialFailure
from tests.actors.answers import next_failure, spec
from tests.actors.test_dispatcher import LONG_S, SHORT_S


def test_a_heartbeat_ends_the_silence_and_updates_the_activity() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=2, max_failures=0)
        await dispatcher.submit(spec("a"))
        await dispatcher.take_trial(1, LONG_S)
        dispatcher.trials["a"].last_heartbeat -= 1e6
        (seen,) = (await dispatcher.get_overview()).trials
        assert seen.silent_s > 1e6 - 1 and seen.activity == "startup"
        await dispatcher.record_heartbeat("a", 0, "an activity of another group")
        assert (await dispatcher.get_overview()).trials[0].silent_s > 1e6 - 1, (
            "heartbeats of another group are ignored"
        )
        await dispatcher.record_heartbeat("a", 1, "epoch 3")
        (seen,) = (await dispatcher.get_overview()).trials
        assert seen.silent_s < LONG_S and (seen.name, seen.group, seen.activity) == (
            "a",
            1,
            "epoch 3",
        )

    asyncio.run(play())


def test_a_queued_trial_is_in_the_overview_if_no_trial_is_assigned() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=2, max_failures=0)
        await dispatcher.submit(spec("a"))
        await dispatcher.submit(spec("b"))
        dispatcher.trials["a"].last_heartbeat -= 1e6
        assert [each.name for each in (await dispatcher.get_overview()).trials] == ["b"], (
            "the trial queued last"
        )
        await dispatcher.take_trial(0, LONG_S)
        assert [(each.name, each.group) for each in (await dispatcher.get_overview()).trials] == [
            ("a", 0)
        ]
        await dispatcher.release_trial(0, "a")
        await dispatcher.close()
        assert (await dispatcher.get_overview()).trials == ()

    asyncio.run(play())


def test_evicting_a_group_returns_its_workers_once_and_keeps_its_trial() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=1)
        await dispatcher.submit(spec("a"))
        await dispatcher.take_trial(0, LONG_S)
        for rank in range(2):
            await dispatcher.register_worker(0, rank, f"worker {rank}")
        assert (await dispatcher.get_overview()).trials[0].workers == 2
        dispatcher.trials["a"].last_heartbeat -= 1e6
        assert await dispatcher.evict_group(0) == ["worker 0", "worker 1"]
        (seen,) = (await dispatcher.get_overview()).trials
        assert seen.workers == 0 and seen.silent_s < LONG_S, "its restart time begins"
        assert await dispatcher.evict_group(0) == []
        assert await dispatcher.take_trial(0, LONG_S) == spec("a")
        assert await dispatcher.take_trial(0, SHORT_S) is None
        assert "its worker died 2 times" in (await next_failure(dispatcher)).message

    asyncio.run(play())


def test_the_cause_of_a_failure_is_in_the_note() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=2, max_failures=1)
        await dispatcher.submit(spec("a"))
        await dispatcher.take_trial(0, LONG_S)
        await dispatcher.report_infrastructure_failure("a", "OSError: stale file handle", 0)
        await dispatcher.report_infrastructure_failure("a", "not its trial", 1)
        assert await dispatcher.take_trial(0, LONG_S) == spec("a")
        (note,) = (await dispatcher.get_overview()).notes
        assert note == (
            "a continues from its checkpoint: its worker died (failure 1 of at most "
            "1, resources.max_failures): "
            "OSError: stale file handle"
        )
        assert (await dispatcher.get_overview()).notes == (), "each note is fetched once"
        assert await dispatcher.take_trial(0, SHORT_S) is None
        hint = MEMORY_HINT.format(recipe="training")
        failed = f"its worker died 2 times (resources.max_failures = 1){hint}"
        assert await dispatcher.next_reports("a", LONG_S) == (TrialFailure(failed),), (
            "the second death has no known cause"
        )

    asyncio.run(play())


def test_a_repeated_note_counts_once() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        for _ in range(3):
            await dispatcher.add_note("the disk is full")
        assert (await dispatcher.get_overview()).notes == ("the disk is full",)

    asyncio.run(play())


def test_reports_of_another_group_are_dropped() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=2, max_failures=1)
        await dispatcher.submit(spec("a"))
        await dispatcher.take_trial(0, LONG_S)
        await dispatcher.report("a", TrialFailure("another group"), 1)
        await dispatcher.report("a", EpochRecord(1, {}), 0)
        assert await dispatcher.next_reports("a", LONG_S) == (EpochRecord(1, {}),)
        await dispatcher.report("unknown", EpochRecord(1, {}), 0)

    asyncio.run(play())


def test_an_answer_that_was_lost_is_given_again() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        await dispatcher.submit(spec("a"), "token")
        await dispatcher.submit(spec("a"), "token")
        assert list(dispatcher.waiting) == ["a"], "a repeated heartbeat counts once"
        await dispatcher.take_trial(0, LONG_S)
        first, second, third = (EpochRecord(epoch, {}) for epoch in (1, 2, 3))
        await dispatcher.report("a", first)
        await dispatcher.report("a", second)
        assert await dispatcher.next_reports("a", LONG_S, 0) == (first, second)
        await dispatcher.report("a", third)
        assert await dispatcher.next_reports("a", LONG_S, 0) == (first, second), "sent again"
        assert await dispatcher.next_reports("a", LONG_S, 1) == (third,)

    asyncio.run(play())


def test_a_tune_process_is_watched_until_it_deregisters() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        await dispatcher.submit(spec("a"))
        await dispatcher.record_reader_heartbeat("first", "a", "process 1")
        dispatcher.readers["first"].last_heartbeat -= 1e6
        (seen,) = (await dispatcher.get_overview()).readers
        assert (seen.reader, seen.trial) == ("first", "a") and seen.silent_s > 1e6 - 1
        await dispatcher.record_reader_heartbeat(
            "second", "a", "process 2"
        )  # Tune started it instead of the first one
        (seen,) = (await dispatcher.get_overview()).readers
        assert seen.reader == "second" and seen.silent_s < LONG_S
        await dispatcher.take_trial(0, 0.0)
        await dispatcher.report("a", EpochRecord(1, {}, done=True), 0)
        await dispatcher.release_trial(0, "a")
        dispatcher.readers["second"].last_heartbeat -= 1e6
        (seen,) = (await dispatcher.get_overview()).readers
        assert seen.silent_s > 1e6 - 1, (
            "a stopped process that has not read the last record is replaced"
        )
        await dispatcher.submit(spec("b"))
        await dispatcher.record_reader_heartbeat("second", "b", "process 2")
        assert [each.trial for each in (await dispatcher.get_overview()).readers] == ["b"]
        assert (
            await dispatcher.remove_reader("second") == "process 2"
            and await dispatcher.remove_reader("second") is None
        )
        assert (await dispatcher.get_overview()).readers == ()

    asyncio.run(play())
