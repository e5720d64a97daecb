"""Test the release of a trial's folder: the dispatcher reports that no group holds the trial."""

import asyncio
from typing import Any, cast

import pytest

from orchestrator.cluster._dispatcher import Dispatcher
from orchestrator.cluster.dispatcher_client import DispatcherClient
from orchestrator.core.errors import PreflightError
from orchestrator.core.reports import EpochRecord
from tests.actors.answers import next_failure, next_records, spec
from tests.actors.test_dispatcher import LONG_S, SHORT_S, settle
from tests.refusal import refused


def test_an_unassigned_trial_is_released() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=0)
        assert await dispatcher.is_released("a", 0.0)
        await dispatcher.submit(spec("a"))
        assert await dispatcher.is_released("a", 0.0), "no group has taken it"

    asyncio.run(play())


@pytest.mark.parametrize("end", ["given back", "group ended", "given up"])
def test_waiting_for_a_release_ends_with_every_kind_of_end(end: str) -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=2, max_failures=0)
        await dispatcher.submit(spec("a"))
        await dispatcher.take_trial(0, LONG_S)
        await dispatcher.report("a", EpochRecord(2, {}))
        assert not await dispatcher.is_released("a", SHORT_S)
        waits = asyncio.create_task(dispatcher.is_released("a", LONG_S))
        await settle()
        assert not waits.done()
        if end == "given back":
            await dispatcher.release_trial(0, "a")
        elif end == "group ended":
            await dispatcher.group_ended(0, "out of memory")
        else:
            assert await dispatcher.take_trial(0, SHORT_S) is None, (
                "its worker exceeded max_failures"
            )
        assert await waits

    asyncio.run(play())


def test_a_released_trial_can_continue_under_its_name() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=2, max_failures=0)
        await dispatcher.submit(spec("a", until=2))
        await dispatcher.take_trial(0, LONG_S)
        stop_notice = asyncio.create_task(dispatcher.wait_for_stop("a"))
        for epoch in (1, 2):
            await dispatcher.report("a", EpochRecord(epoch, {}))
        await dispatcher.release_trial(0, "a")
        await settle()
        assert not stop_notice.done(), "it is not stopped"
        await dispatcher.submit(spec("a", until=4))
        await stop_notice
        assert await dispatcher.take_trial(1, LONG_S) == spec("a", until=4)
        await dispatcher.report("a", EpochRecord(2, {}))
        await dispatcher.report("a", EpochRecord(3, {}))
        assert [record.epoch for record in await next_records(dispatcher)] == [2, 3], (
            "the reader drops known epochs"
        )

    asyncio.run(play())


def test_deaths_are_counted_over_all_submissions_of_a_trial() -> None:
    async def play() -> None:
        dispatcher = Dispatcher(groups=1, max_failures=1)
        await dispatcher.submit(spec("a"))
        for _ in range(2):  # the second one is a death
            await dispatcher.take_trial(0, LONG_S)
        await dispatcher.release_trial(0, "a")
        await dispatcher.submit(spec("a"))
        await dispatcher.take_trial(0, LONG_S)
        assert await dispatcher.take_trial(0, SHORT_S) is None
        assert "its worker died 2 times" in (await next_failure(dispatcher)).message

    asyncio.run(play())


class Remote:
    """A method of an actor handle: `remote` is the call."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def remote(self, *_: Any) -> Any:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def test_waiting_for_a_release_has_a_timeout_and_names_the_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "orchestrator.cluster.dispatcher_client.ray.get", lambda answer, timeout: answer
    )
    held = cast(
        Any,
        type(
            "Held",
            (),
            {
                "is_released": Remote(False, False, True),
                "describe": Remote("trial-00003 is assigned to group 1"),
            },
        ),
    )
    DispatcherClient("dispatcher", held()).wait_until_released("trial-00003", 30.0)
    held.is_released = Remote(False)
    with refused(
        "resources.heartbeat_timeout_s",
        0.01,
        "longer than a single step of the trial",
        PreflightError,
    ):
        DispatcherClient("dispatcher", held()).wait_until_released("trial-00003", 0.01)
