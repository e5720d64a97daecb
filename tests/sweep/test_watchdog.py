"""Test the watchdog for trials without heartbeats, with a simulated clock and dispatcher."""

import threading
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.cluster.group_autoscaler import RETURN_S
from orchestrator.cluster.overview import DispatcherOverview, ReaderOverview, TrialOverview
from orchestrator.config.schema import Resources
from orchestrator.sweep import _watchdog as watchdogs
from orchestrator.sweep._watchdog import Watchdog, watch_trials

SILENCE_S, WAIT_S = 100.0, 400.0


class RecordedActions:
    """Recorder of a watchdog's actions; `workers` are those that groups still have."""

    def __init__(self, *groups: int) -> None:
        self.workers = set(groups)
        self.notes: list[str] = []
        self.done: list[Any] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def cluster(self) -> str:
        return "the cluster is small"

    def recover(self, groups: list[int]) -> None:
        self.done.append(("recover", groups))

    def replace(self, group: int) -> bool:
        self.done.append(("replace", group))
        return group in self.workers

    def remove_lost_group(self, group: int, why: str) -> None:
        self.done.append(("remove_lost_group", group, why))

    def restart(self) -> None:
        self.done.append("restart")

    def end_reader(self, reader: str) -> None:
        self.done.append(("end", reader))

    def end_process(self, process: object) -> None:
        self.done.append(("end process", process))

    def give_up(self, why: str) -> None:
        self.done.append(("give up", why))


def seen(*trials: TrialOverview, **more: Any) -> DispatcherOverview:
    plain = {
        "instance_id": "one",
        "has_group_list": True,
        "unreported_groups": (),
        "groups": (0, 1),
        "serving_groups": (0, 1),
        "waiting": 2,
        "last_error": "",
    }
    return DispatcherOverview(**{**plain, "trials": trials, **more})


def trial(
    silent_s: float, name: str = "trial-00003", group: int | None = 1, workers: int = 2
) -> TrialOverview:
    return TrialOverview(name, group, workers, "epoch 4", silent_s)


@pytest.fixture
def actions() -> RecordedActions:
    return RecordedActions(0, 1)


@pytest.fixture
def watchdog(actions: RecordedActions) -> Watchdog:
    return Watchdog(SILENCE_S, WAIT_S, actions)


def test_each_silence_is_reported_once_with_details(
    watchdog: Watchdog, actions: RecordedActions
) -> None:
    for second in range(0, 399, 10):
        watchdog.check(seen(trial(second), trial(0, "trial-00004", 0)), second)
        assert bool(actions.notes) == (second >= SILENCE_S)
    message = (
        "trial-00003 has sent no heartbeat for 100 s: group 1 trains it, last at epoch 4; 2 "
        "trials wait for a group"
    )
    assert actions.notes == [f"{message}; the cluster is small"] and not actions.done
    watchdog.check(seen(trial(0)), 400)
    watchdog.check(seen(trial(SILENCE_S), waiting=1), 500)
    assert len(actions.notes) == 2 and "1 trial waits for a group" in actions.notes[1], (
        "another silence"
    )


def test_heartbeats_prevent_actions(watchdog: Watchdog, actions: RecordedActions) -> None:
    for second in range(0, 10000, 50):
        watchdog.check(seen(trial(SILENCE_S - 1)), second)
    assert not actions.notes and not actions.done


def test_silent_group_is_replaced_after_the_timeout(
    watchdog: Watchdog, actions: RecordedActions
) -> None:
    watchdog.check(seen(trial(WAIT_S)), 0)
    assert actions.done == [("replace", 1)]
    assert (
        actions.notes[-1] == "group 1 is replaced: trial-00003 has sent no heartbeat for 400 s "
        "(resources.heartbeat_timeout_s = 400)"
    )
    actions.workers.clear()
    watchdog.check(seen(trial(1, workers=0)), 1)
    assert len(actions.done) == 1
    watchdog.check(seen(trial(WAIT_S, workers=0)), 2)
    assert actions.done[1:] == [("replace", 1), ("remove_lost_group", 1, "it did not restart")]
    assert "another group trains its trial" in actions.notes[-1]


@pytest.mark.parametrize(("workers", "replaced"), [(1, True), (0, False)])
def test_starting_group_is_given_more_time_than_a_short_timeout(
    workers: int, replaced: bool, actions: RecordedActions
) -> None:
    watchdog = Watchdog(2, 5, actions)
    watchdog.check(seen(trial(RETURN_S - 1, workers=workers)), 0)
    assert bool(actions.done) is replaced
    assert ("is being restarted" in actions.notes[0]) is not replaced


def test_run_without_any_group_is_reported_and_ended(
    watchdog: Watchdog, actions: RecordedActions
) -> None:
    waits = trial(SILENCE_S, group=None, workers=0)
    watchdog.check(seen(waits, serving_groups=[], last_error="no node has 8 CPU"), 0)
    assert (
        "it waits for a worker group, and none has started (no node has 8 CPU)" in actions.notes[0]
    )
    assert "the cluster is small" in actions.notes[0] and not actions.done
    watchdog.check(seen(replace(waits, silent_s=WAIT_S), serving_groups=[]), 1)
    ((what, why),) = actions.done
    assert (
        what == "give up"
        and "no worker group can train it; the cluster is small" in why
        and len(actions.notes) == 1
    )


def test_notes_of_workers_are_forwarded(watchdog: Watchdog, actions: RecordedActions) -> None:
    watchdog.check(seen(notes=["the disk is full", "trial-00001 continues"]), 0)
    assert actions.notes == ["the disk is full", "trial-00001 continues"]


def test_restarted_dispatcher_receives_the_living_groups(
    watchdog: Watchdog, actions: RecordedActions
) -> None:
    watchdog.check(seen(groups=[0, 3]), 0)
    watchdog.check(None, 1)
    watchdog.check(seen(instance_id="two", has_group_list=False, groups=[0, 1]), 2)
    assert (
        actions.done == [("recover", [0, 3])]
        and len(actions.notes) == 1
        and "died and was restarted" in actions.notes[0]
    )
    waits = trial(WAIT_S, group=None, workers=0)
    watchdog.check(seen(waits, instance_id="two", groups=[0, 3], unreported_groups=[3]), 3)
    assert len(actions.done) == 1, "a group that trains for the old one may take its time"
    assert "all of which must report first" in actions.notes[-1]
    watchdog.check(seen(instance_id="two", groups=[0, 3], unreported_groups=[3]), 3 + WAIT_S)
    assert actions.done[1:] == [
        ("remove_lost_group", 3, "it sent no report after the dispatcher died")
    ]


def test_unresponsive_dispatcher_is_restarted_and_reported_once(
    watchdog: Watchdog, actions: RecordedActions
) -> None:
    watchdog.check(seen(), 0)
    for second in range(10, 1000, 10):
        watchdog.check(None, second)
        expected = (second >= 30) + max((second - 30) // RETURN_S, 0)
        assert actions.done == ["restart"] * int(expected), (
            "one that does not come back, which takes a while, is ended again"
        )
    subject = "the trial dispatcher"
    assert actions.notes == [
        f"{subject} is restarted: it has not answered for 30 s",
        f"{subject} has not answered for 100 s",
    ]
    watchdog.check(seen(), 1000)
    for second in range(1001, 1200, 10):
        watchdog.check(None, second)
    assert len(actions.notes) == 4


def test_dispatcher_is_restarted_before_its_clients_give_up(actions: RecordedActions) -> None:
    watchdog = Watchdog(SILENCE_S, 8.0, actions)
    for second in range(int(RETURN_S)):
        watchdog.check(None, second)
    assert not actions.done, "it has just been started"
    watchdog.check(seen(), 200)
    for second in range(201, 205):
        watchdog.check(None, second)
    assert actions.done == ["restart"]


def test_silent_tune_process_is_ended(watchdog: Watchdog, actions: RecordedActions) -> None:
    for silent_s in (0.0, WAIT_S - 1, WAIT_S):
        watchdog.check(seen(readers=[ReaderOverview("one", "trial-00003", silent_s)]), silent_s)
        assert actions.done == [("end", "one")] * (silent_s >= WAIT_S)
    (note,) = actions.notes
    assert note == (
        "the Tune process of trial-00003 is replaced: it has sent no heartbeat for 400 s "
        "(resources.heartbeat_timeout_s = 400)"
    )


@pytest.mark.parametrize("later", ["another", "a third, as that one died too"])
def test_tune_process_silent_to_a_new_dispatcher_is_ended(
    later: str, watchdog: Watchdog, actions: RecordedActions
) -> None:
    """The new dispatcher does not know its trial, because no other process sends it."""
    before = {"one": ("trial-00003", "stopped"), "two": ("trial-00004", "well")}
    watchdog.check(seen(processes=before), 0)
    for second in (10, 20, 10 + WAIT_S, 11 + WAIT_S):
        heard = {"two": before["two"]} if second > 10 else {}
        watchdog.check(
            seen(instance_id="another" if second == 10 else later, processes=heard), second
        )
        assert actions.done == [("end process", "stopped")] * (second >= 10 + WAIT_S)
    assert any(
        note.startswith("the Tune process of trial-00003 is replaced, after the dispatcher's death")
        for note in actions.notes
    )


def test_watchdog_thread_survives_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, enough = [], threading.Event()

    class Troubled:
        recover = replace = remove_lost_group = give_up = restart = end_reader = end_process = None
        looks = 0

        def get_overview(self, timeout_s: float) -> DispatcherOverview:
            self.looks += 1
            if self.looks == 1:
                raise RuntimeError("Ray has not been started yet")
            return seen(notes=[f"look {self.looks}"])

    def note(text: str) -> None:
        notes.append(text)
        if len(notes) == 1:
            raise OSError("the record cannot be written")
        enough.set()

    monkeypatch.setattr(watchdogs, "INTERVAL_S", 0)
    dispatcher_client: Any = Troubled()
    with watch_trials(dispatcher_client, Resources(), note):
        assert enough.wait(30)
    assert notes[:2] == ["look 2", "look 3"]
