"""Watch for trials without a heartbeat: report what they wait for, and finally replace their group.

`Watchdog` decides from overviews of the dispatcher, without Ray. `watch_trials` runs the thread in
the driver that carries the decisions out.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.cluster.group_autoscaler import RETURN_S
from orchestrator.config.schema import Resources
from orchestrator.core.signals import remaining_timeout

if TYPE_CHECKING:
    from orchestrator.cluster.dispatcher_client import DispatcherClient

LOOK_S = 1.0
END_S = 5.0  # for an overview in progress
ANSWER_S = 10.0
# a dispatcher is replaced after so long without an answer, or half of `heartbeat_timeout_s`
REPLY_S = 30.0
log = logging.getLogger(__name__)


class Hands(Protocol):
    """Actions of a watchdog."""

    def note(self, text: str) -> None:
        """Report to the person who runs the sweep."""

    def cluster(self) -> str:
        """Describe the resources of the cluster."""

    def recover(self, groups: list[int]) -> None:
        """Send the groups to a dispatcher that was restarted."""

    def replace(self, group: int) -> bool:
        """End the workers of a group, so that others replace them; return False if it has none."""

    def lose(self, group: int, why: str) -> None:
        """Remove a group; its trial is free for another one."""

    def restart(self) -> None:
        """End the dispatcher, so that Ray restarts it."""

    def end_reader(self, reader: str) -> None:
        """End the process that waits for the records of a trial, so that Tune restarts it."""

    def end_process(self, process: Any) -> None:
        """End such a process, which the dispatcher does not know."""

    def give_up(self, why: str) -> None:
        """End the run, so that it can be resumed."""


class Watchdog:
    """Decisions from successive overviews of the dispatcher; each silence is reported once."""

    def __init__(
        self, heartbeat_warning_s: float, heartbeat_timeout_s: float, hands: Hands
    ) -> None:
        self.heartbeat_warning_s, self.heartbeat_timeout_s, self.hands = (
            heartbeat_warning_s,
            heartbeat_timeout_s,
            hands,
        )
        self.life = ""
        self.groups: list[int] = []
        self.told: set[str] = set()  # trials whose silence was reported
        self.answered: float | None = None
        self.restarted = -math.inf  # time of the last restart of a dispatcher that did not answer
        self.began = False  # whether the dispatcher has answered since its start
        # processes that wait for a trial's records, from the last overview
        self.processes: dict[str, tuple[str, Any]] = {}
        # those of them that have sent the new dispatcher no heartbeat, and since when
        self.unheard: dict[str, tuple[float, str, Any]] = {}
        self.died: float | None = None  # since when a new dispatcher lacks reports of groups

    def look(self, seen: dict[str, Any] | None, now: float) -> None:
        """Act on an overview of the dispatcher at a time (s); None: it does not answer."""
        if seen is None:
            self._unanswered(now)
            return
        self.answered, self.began = now, True
        self.told.discard("")
        for text in seen["notes"]:
            self.hands.note(text)
        self._recovered(seen, now)
        self._unheard(seen["processes"], now)
        limit_s = min(self.heartbeat_warning_s, self.heartbeat_timeout_s)
        self.told &= {trial["name"] for trial in seen["trials"] if trial["silent_s"] >= limit_s}
        # without a group, the code that starts groups counts the time
        for trial in seen["trials"] if seen["groups"] else []:
            if trial["silent_s"] >= limit_s and trial["name"] not in self.told:
                self.told.add(trial["name"])
                self.hands.note(f"{self._silent(trial, seen)}; {self.hands.cluster()}")
            self._act(trial, seen)
        for reader in seen["readers"]:
            if reader["silent_s"] >= self.heartbeat_timeout_s:
                self.hands.note(
                    f"the Tune process of {reader['name']} is replaced: {self._nothing(reader)}"
                )
                self.hands.end_reader(reader["reader"])

    def _unheard(self, processes: dict[str, tuple[str, Any]], now: float) -> None:
        """End a process that waited when a dispatcher died and has sent the new one no heartbeat.

        It may be stopped.
        """
        self.processes = processes
        for reader, (since, name, process) in list(self.unheard.items()):
            if reader in processes or now - since >= self.heartbeat_timeout_s:
                del self.unheard[reader]
            if reader not in processes and now - since >= self.heartbeat_timeout_s:
                silent = {"silent_s": now - since}
                self.hands.note(
                    f"the Tune process of {name} is replaced, after the dispatcher's death: "
                    f"{self._nothing(silent)}"
                )
                self.hands.end_process(process)

    def _nothing(self, silent: dict[str, Any]) -> str:
        return (
            f"nothing was heard of it for {silent['silent_s']:.0f} s "
            f"(resources.heartbeat_timeout_s = {self.heartbeat_timeout_s:g})"
        )

    def _unanswered(self, now: float) -> None:
        since = self.answered = now if self.answered is None else self.answered
        if now - since >= self.heartbeat_warning_s and "" not in self.told:
            self.told.add("")
            self.hands.note(
                f"the dispatcher, which hands out trials, has not answered for {now - since:.0f} s"
            )
        limit_s = min(REPLY_S, self.heartbeat_timeout_s / 2) if self.began else RETURN_S
        if now - max(since, self.restarted) >= limit_s:
            if self.restarted < since:
                self.hands.note(
                    f"the dispatcher, which hands out trials, is replaced: it has not answered "
                    f"for {now - since:.0f} s"
                )
            self.restarted, self.began = now, False
            self.hands.restart()

    def _recovered(self, seen: dict[str, Any], now: float) -> None:
        """Send the groups to a restarted dispatcher, and remove those that never report to it.

        A dispatcher that died has lost its state. It waits until each group has reported.
        """
        if self.life and seen["life"] != self.life:
            self.hands.note(
                "the dispatcher, which hands out trials, died and was started again: trials go "
                "on from their checkpoints"
            )
            # it may die twice
            self.unheard = {
                reader: (now, *each) for reader, each in self.processes.items()
            } | self.unheard
        self.life = seen["life"]
        if not seen["introduced"]:
            self.hands.recover(self.groups)
            return
        self.groups = seen["groups"]
        self.died = (now if self.died is None else self.died) if seen["missing"] else None
        if self.died is not None and now - self.died >= max(self.heartbeat_timeout_s, RETURN_S):
            for group in seen["missing"]:
                self.hands.lose(group, "it was not heard of after the dispatcher had died")

    def _silent(self, trial: dict[str, Any], seen: dict[str, Any]) -> str:
        waiting, silent = (
            seen["waiting"],
            f"nothing was heard of {trial['name']} for {trial['silent_s']:.0f} s",
        )
        wait = f"{waiting} trial{'s wait' if waiting != 1 else ' waits'} for a group"
        if trial["group"] is not None:
            who = f"group {trial['group']} has it, last at {trial['doing']}"
            return (
                f"{silent}: "
                f"{who}{' and is being started again' if not trial['workers'] else ''}; {wait}"
            )
        if not seen["serving"]:
            error = f" ({seen['last_error']})" if seen["last_error"] else ""
            return f"{silent}: it waits for a worker group, and none has started{error}; {wait}"
        after = (
            " until all of them are heard, after the dispatcher's death" if seen["missing"] else ""
        )
        return f"{silent}: it waits for one of {len(seen['groups'])} worker groups{after}; {wait}"

    def _act(self, trial: dict[str, Any], seen: dict[str, Any]) -> None:
        group, silent_s = trial["group"], trial["silent_s"]
        limit_s = (
            self.heartbeat_timeout_s
            if trial["workers"]
            else max(self.heartbeat_timeout_s, RETURN_S)
        )
        if silent_s < limit_s or (group is None and seen["missing"]):
            return
        limit = f"resources.heartbeat_timeout_s = {self.heartbeat_timeout_s:g}"
        why = f"nothing was heard of {trial['name']} for {silent_s:.0f} s ({limit})"
        if group is None:
            self.hands.give_up(f"{why}: no worker group takes it; {self.hands.cluster()}")
        elif self.hands.replace(group):
            self.hands.note(f"group {group} is replaced: {why}")
        else:
            self.hands.note(
                f"group {group} did not come back, and its trial is for another one: {why}"
            )
            self.hands.lose(group, "it did not come back")


class _Hands:
    """Actions of a watchdog in the driver."""

    def __init__(self, dispatcher_client: "DispatcherClient", note: Callable[[str], None]) -> None:
        self.dispatcher_client, self.note = dispatcher_client, note
        self.recover, self.replace, self.lose, self.give_up = (
            dispatcher_client.recover,
            dispatcher_client.replace,
            dispatcher_client.lose,
            dispatcher_client.give_up,
        )
        self.restart, self.end_reader, self.end_process = (
            dispatcher_client.restart,
            dispatcher_client.end_reader,
            dispatcher_client.end_process,
        )

    def cluster(self) -> str:
        import ray

        has, free = ray.cluster_resources(), ray.available_resources()
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
        kinds = " and ".join(
            f"{free.get(kind, 0):g} of {has.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU")
        )
        return f"the cluster has {nodes} node{'s' * (nodes != 1)} with {kinds} free"


@contextlib.contextmanager
def watch_trials(
    dispatcher_client: "DispatcherClient", resources: Resources, note: Callable[[str], None]
) -> Iterator[None]:
    """Watch the trials in a thread, about every second, until the block ends.

    `note` is called from that thread.
    """
    over = threading.Event()
    watchdog = Watchdog(
        resources.heartbeat_warning_s,
        resources.heartbeat_timeout_s,
        _Hands(dispatcher_client, note),
    )
    thread = threading.Thread(
        target=_watch, args=(watchdog, dispatcher_client, over), name="watchdog", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(remaining_timeout(END_S))  # Ray ends after this, and must not be called then


def _watch(
    watchdog: Watchdog, dispatcher_client: "DispatcherClient", over: threading.Event
) -> None:
    while not over.wait(LOOK_S):
        seen = None
        try:
            with contextlib.suppress(Exception):  # Ray in trouble fails in many ways
                seen = dispatcher_client.overview(ANSWER_S)
            if not over.is_set():
                watchdog.look(seen, time.monotonic())
        except Exception:  # the watchdog must survive its own errors
            log.warning("the watchdog could not do what it wanted", exc_info=True)
