"""Detect trials without a heartbeat, report what they wait for, and replace their worker group.

`Watchdog` decides from overviews of the dispatcher, without Ray. `watch_trials` runs it in a thread
of the driver.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.cluster.group_autoscaler import RETURN_S
from orchestrator.cluster.overview import DispatcherOverview, TrialOverview
from orchestrator.config.schema import Resources
from orchestrator.core.signals import remaining_timeout

if TYPE_CHECKING:
    from orchestrator.cluster.dispatcher_client import DispatcherClient

INTERVAL_S = 1.0
END_S = 5.0  # for an overview in progress
ANSWER_S = 10.0
# a dispatcher is replaced after so long without an answer, or half of `heartbeat_timeout_s`
REPLY_S = 30.0
log = logging.getLogger(__name__)


class WatchdogActions(Protocol):
    """Actions of a watchdog."""

    def note(self, text: str) -> None:
        """Show a message to the user and record it."""

    def cluster(self) -> str:
        """Describe the resources of the cluster."""

    def recover(self, groups: list[int]) -> None:
        """Send the list of groups to a restarted dispatcher."""

    def replace(self, group: int) -> bool:
        """End the workers of a group, so that new ones start; return False if it has none."""

    def remove_lost_group(self, group: int, why: str) -> None:
        """Remove a group; its trial is given to another one."""

    def restart(self) -> None:
        """End the dispatcher, so that Ray restarts it."""

    def end_reader(self, reader: str) -> None:
        """End the process that waits for the records of a trial, so that Tune restarts it."""

    def end_process(self, process: Any) -> None:
        """End such a process that the dispatcher does not know."""

    def give_up(self, why: str) -> None:
        """End the run, so that it can be resumed."""


class Watchdog:
    """Decisions from successive overviews of the dispatcher; each silence is reported once."""

    def __init__(
        self, heartbeat_warning_s: float, heartbeat_timeout_s: float, actions: WatchdogActions
    ) -> None:
        self.heartbeat_warning_s = heartbeat_warning_s
        self.heartbeat_timeout_s = heartbeat_timeout_s
        self.actions = actions
        self.instance_id = ""
        self.groups: list[int] = []
        self.reported: set[str] = set()  # trials whose silence was reported
        self.last_answer: float | None = None
        self.last_restart = -math.inf  # of a dispatcher that did not answer
        self.has_answered = False  # whether the dispatcher has answered since its start
        # processes that wait for a trial's records, from the last overview
        self.processes: Mapping[str, tuple[str, Any]] = {}
        # those that have not yet sent a heartbeat to a restarted dispatcher, and since when
        self.silent_processes: dict[str, tuple[float, str, Any]] = {}
        # since when a restarted dispatcher lacks the reports of groups
        self.missing_since: float | None = None

    def check(self, overview: DispatcherOverview | None, now: float) -> None:
        """Act on an overview of the dispatcher at a time (s), None if it does not answer."""
        if overview is None:
            self._handle_missing_answer(now)
            return
        self.last_answer, self.has_answered = now, True
        self.reported.discard("")
        for text in overview.notes:
            self.actions.note(text)
        self._recover_groups(overview, now)
        self._end_silent_processes(overview.processes, now)
        limit_s = min(self.heartbeat_warning_s, self.heartbeat_timeout_s)
        self.reported &= {trial.name for trial in overview.trials if trial.silent_s >= limit_s}
        # without a group, the autoscaler measures the time
        for trial in overview.trials if overview.groups else []:
            if trial.silent_s >= limit_s and trial.name not in self.reported:
                self.reported.add(trial.name)
                self.actions.note(
                    f"{self._describe_silence(trial, overview)}; {self.actions.cluster()}"
                )
            self._act_on_silence(trial, overview)
        for reader in overview.readers:
            if reader.silent_s >= self.heartbeat_timeout_s:
                self.actions.note(
                    f"the Tune process of {reader.trial} is replaced: "
                    f"{self._format_silence(reader.silent_s)}"
                )
                self.actions.end_reader(reader.reader)

    def _end_silent_processes(self, processes: Mapping[str, tuple[str, Any]], now: float) -> None:
        """End a process that waited when a dispatcher died and has not reported to the new one.

        Such a process may have been stopped.
        """
        self.processes = processes
        for reader, (since, name, process) in list(self.silent_processes.items()):
            if reader in processes or now - since >= self.heartbeat_timeout_s:
                del self.silent_processes[reader]
            if reader not in processes and now - since >= self.heartbeat_timeout_s:
                self.actions.note(
                    f"the Tune process of {name} is replaced, after the dispatcher's death: "
                    f"{self._format_silence(now - since)}"
                )
                self.actions.end_process(process)

    def _format_silence(self, silent_s: float) -> str:
        return (
            f"it has sent no heartbeat for {silent_s:.0f} s "
            f"(resources.heartbeat_timeout_s = {self.heartbeat_timeout_s:g})"
        )

    def _handle_missing_answer(self, now: float) -> None:
        since = self.last_answer = now if self.last_answer is None else self.last_answer
        if now - since >= self.heartbeat_warning_s and "" not in self.reported:
            self.reported.add("")
            self.actions.note(f"the trial dispatcher has not answered for {now - since:.0f} s")
        limit_s = min(REPLY_S, self.heartbeat_timeout_s / 2) if self.has_answered else RETURN_S
        if now - max(since, self.last_restart) >= limit_s:
            if self.last_restart < since:
                self.actions.note(
                    f"the trial dispatcher is restarted: it has not answered for "
                    f"{now - since:.0f} s"
                )
            self.last_restart, self.has_answered = now, False
            self.actions.restart()

    def _recover_groups(self, overview: DispatcherOverview, now: float) -> None:
        """Send the groups to a restarted dispatcher, and remove those that never report to it.

        A dispatcher that died has lost its state. It waits until each group has reported.
        """
        if self.instance_id and overview.instance_id != self.instance_id:
            self.actions.note(
                "the trial dispatcher died and was restarted: trials continue from their "
                "checkpoints"
            )
            # it may die twice
            self.silent_processes = {
                reader: (now, *each) for reader, each in self.processes.items()
            } | self.silent_processes
        self.instance_id = overview.instance_id
        if not overview.has_group_list:
            self.actions.recover(self.groups)
            return
        self.groups = list(overview.groups)
        self.missing_since = (
            (now if self.missing_since is None else self.missing_since)
            if overview.unreported_groups
            else None
        )
        if self.missing_since is not None and now - self.missing_since >= max(
            self.heartbeat_timeout_s, RETURN_S
        ):
            for group in overview.unreported_groups:
                self.actions.remove_lost_group(group, "it sent no report after the dispatcher died")

    def _describe_silence(self, trial: TrialOverview, overview: DispatcherOverview) -> str:
        waiting = overview.waiting
        silent = f"{trial.name} has sent no heartbeat for {trial.silent_s:.0f} s"
        wait = f"{waiting} trial{'s wait' if waiting != 1 else ' waits'} for a group"
        if trial.group is not None:
            restarting = " and is being restarted" if not trial.workers else ""
            return (
                f"{silent}: group {trial.group} trains it, last at {trial.activity}"
                f"{restarting}; {wait}"
            )
        if not overview.serving_groups:
            error = f" ({overview.last_error})" if overview.last_error else ""
            return f"{silent}: it waits for a worker group, and none has started{error}; {wait}"
        if overview.unreported_groups:
            after = ", all of which must report first after the dispatcher's death"
        else:
            after = ""
        return f"{silent}: it waits for one of {len(overview.groups)} worker groups{after}; {wait}"

    def _act_on_silence(self, trial: TrialOverview, overview: DispatcherOverview) -> None:
        group, silent_s = trial.group, trial.silent_s
        limit_s = (
            self.heartbeat_timeout_s if trial.workers else max(self.heartbeat_timeout_s, RETURN_S)
        )
        if silent_s < limit_s or (group is None and overview.unreported_groups):
            return
        limit = f"resources.heartbeat_timeout_s = {self.heartbeat_timeout_s:g}"
        why = f"{trial.name} has sent no heartbeat for {silent_s:.0f} s ({limit})"
        if group is None:
            self.actions.give_up(f"{why}: no worker group can train it; {self.actions.cluster()}")
        elif self.actions.replace(group):
            self.actions.note(f"group {group} is replaced: {why}")
        else:
            self.actions.note(
                f"group {group} did not restart, and another group trains its trial: {why}"
            )
            self.actions.remove_lost_group(group, "it did not restart")


class DispatcherActions:
    """Actions of a watchdog in the driver."""

    def __init__(self, dispatcher_client: "DispatcherClient", note: Callable[[str], None]) -> None:
        self.dispatcher_client, self.note = dispatcher_client, note
        self.recover = dispatcher_client.recover
        self.replace = dispatcher_client.replace
        self.remove_lost_group = dispatcher_client.remove_lost_group
        self.give_up = dispatcher_client.give_up
        self.restart = dispatcher_client.restart
        self.end_reader = dispatcher_client.end_reader
        self.end_process = dispatcher_client.end_process

    def cluster(self) -> str:
        import ray

        total, free = ray.cluster_resources(), ray.available_resources()
        nodes = sum(bool(node["Alive"]) for node in ray.nodes())
        kinds = " and ".join(
            f"{free.get(kind, 0):g} of {total.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU")
        )
        return f"the cluster has {nodes} node{'s' * (nodes != 1)} with {kinds} free"


@contextlib.contextmanager
def watch_trials(
    dispatcher_client: "DispatcherClient", resources: Resources, note: Callable[[str], None]
) -> Iterator[None]:
    """Watch the trials in a thread, about every second, until the block ends.

    `note` is called from that thread.
    """
    stop_event = threading.Event()
    watchdog = Watchdog(
        resources.heartbeat_warning_s,
        resources.heartbeat_timeout_s,
        DispatcherActions(dispatcher_client, note),
    )
    thread = threading.Thread(
        target=_watch, args=(watchdog, dispatcher_client, stop_event), name="watchdog", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop_event.set()
        thread.join(remaining_timeout(END_S))  # Ray ends after this, and must not be called then


def _watch(
    watchdog: Watchdog, dispatcher_client: "DispatcherClient", stop_event: threading.Event
) -> None:
    while not stop_event.wait(INTERVAL_S):
        overview = None
        try:
            with contextlib.suppress(Exception):  # Ray in trouble fails in many ways
                overview = dispatcher_client.get_overview(ANSWER_S)
            if not stop_event.is_set():
                watchdog.check(overview, time.monotonic())
        except Exception:  # the watchdog must survive its own errors
            log.warning("an action of the watchdog failed", exc_info=True)
