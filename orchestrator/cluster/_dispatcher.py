"""Queue trials for worker groups, and return the groups' reports to the callers.

A sweep has one dispatcher, an actor that holds no CPU. It is plain asyncio, so tests run it without
Ray. If its process dies, Ray restarts it empty, and waiting callers resubmit their trials. No trial
is assigned before each group has reported that it is free.
"""

import asyncio
import contextlib
import math
import time
import uuid
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.cluster.overview import DispatcherOverview, ReaderOverview, TrialOverview
from orchestrator.config.trial import TrialSpec, recipe_key
from orchestrator.core.reports import (
    Answer,
    EpochRecord,
    NoWorkers,
    Report,
    TrialFailure,
    UnknownTrial,
)

CLOSE = "close"
MEMORY_HINT = ": see the Ray logs; if memory ran out, lower {recipe}.batch_size or resources.groups"
NOTES = 100  # kept until the driver fetches them


@dataclass
class _Trial:
    """State of a trial.

    `num_sent` counts the answers sent to the reader, the last one at `last_sent`; `last` is kept
    for redelivery. `failure` is the cause of the last group's failure. `attached` states whether a
    reader has taken over the submission of another process.
    """

    spec: TrialSpec
    token: str = ""
    reports: list[Report | NoWorkers] = field(default_factory=list)
    reported: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    num_sent: int = 0
    last_sent: float = -math.inf
    last: tuple[Report | NoWorkers, ...] = ()
    epoch: int = 0
    failures: int = 0
    ended: bool = False
    last_heartbeat: float = field(default_factory=time.monotonic)
    activity: str = "queued"
    failure: str = ""
    attached: bool = False

    def add_report(self, report: Report | NoWorkers) -> None:
        """Queue a report for the reader."""
        self.reports.append(report)
        self.reported.set()

    def is_urgent(self, decision_epochs: Collection[int]) -> bool:
        """Return whether a queued report ends the trial, or is one on which a scheduler decides."""
        return any(
            not isinstance(report, EpochRecord) or report.done or report.epoch in decision_epochs
            for report in self.reports
        )


@dataclass
class _Reader:
    """Process that reads the records of a trial, and its handle."""

    trial: str
    process: Any
    last_heartbeat: float = field(default_factory=time.monotonic)


class Dispatcher:
    """Queue of trials; `assignments` maps each group to its trial until the group releases it.

    `restarted` marks a restart after a death. `recover` then lists the groups;
    `unreported_groups` are those that have not reported yet.
    """

    def __init__(self, groups: int, max_failures: int, restarted: bool = False) -> None:
        self.groups, self.max_failures = set(range(groups)), max_failures
        self.instance_id, self.has_group_list = uuid.uuid4().hex, not restarted
        self.unreported_groups: set[int] = set()
        self.reported_groups: set[int] = set()
        self.ended_groups: set[int] = set()
        self.trials: dict[str, _Trial] = {}
        self.waiting: deque[str] = deque()
        self.assignments: dict[int, str] = {}
        self.request_counts: dict[int, int] = {}
        self.workers: dict[int, dict[int, Any]] = {}
        self.readers: dict[str, _Reader] = {}
        self.notes: deque[str] = deque(maxlen=NOTES)
        self.closed = False
        self.last_error = self.give_up_reason = ""
        self.changed = asyncio.Condition()

    async def recover(self, groups: Iterable[int]) -> None:
        """Register the live groups after a restart; each may still train its earlier trial."""
        if self.has_group_list:
            return
        self.groups = (set(groups) | self.reported_groups) - self.ended_groups
        self.unreported_groups = self.groups - self.reported_groups
        self.has_group_list = True
        async with self.changed:
            self.changed.notify_all()

    @property
    def is_reconciled(self) -> bool:
        """Return whether the assignment of every group is known."""
        return self.has_group_list and not self.unreported_groups

    async def submit(self, spec: TrialSpec, token: str = "") -> None:
        """Queue a trial.

        A name may be reused after its trial has ended, or to resume the trial once it is
        released. `token` identifies the submission: a repetition after a lost answer counts once.
        """
        name, previous = spec.name, self.trials.get(spec.name)
        if previous and token and previous.token == token:
            return
        if previous:
            previous.stopped.set()
        failures = previous.failures if previous and not previous.ended else 0
        self.trials[name] = trial = _Trial(spec, token, failures=failures)
        if self.give_up_reason:
            trial.add_report(NoWorkers(self.give_up_reason))
            return
        async with self.changed:
            self.waiting.append(name)
            self.changed.notify_all()

    async def attach(self, name: str, token: str) -> bool:
        """Let a reader take over a submission, and return whether it may.

        Only the first one may: a later one may lack answers that were sent to the first.
        """
        trial = self.trials.get(name)
        if trial is None or trial.token != token or trial.attached:
            return False
        trial.attached = True
        return True

    async def take_trial(self, group: int, wait_s: float) -> TrialSpec | str | None:
        """Return the next trial for a group, CLOSE, or None after `wait_s` seconds without one.

        A group that holds a trial and requests another has died in between. It gets the same trial,
        up to `max_failures` times.
        """
        request = self.request_counts[group] = self.request_counts.get(group, 0) + 1
        self.groups.add(group)
        self.ended_groups.discard(group)
        self._mark_reported(group)
        held = self._reassign(group)
        if held:
            return self.trials[held].spec
        async with self.changed:
            self.changed.notify_all()  # the group may have released a trial
            try:
                await asyncio.wait_for(
                    self.changed.wait_for(
                        lambda: (
                            self.closed
                            or self._has_trial()
                            or self.request_counts[group] != request
                        )
                    ),
                    wait_s,
                )
            except TimeoutError:
                return None
            if self.request_counts[group] != request:  # the requester died and was replaced
                return None
            if self.closed:
                return CLOSE
            if not self._has_trial():  # the trial was stopped after the notification
                return None
            name = self.assignments[group] = self.waiting.popleft()
            trial = self.trials[name]
            trial.last_heartbeat, trial.activity = time.monotonic(), "startup"
            return trial.spec

    async def report(self, name: str, report: Report, group: int | None = None) -> None:
        """Queue a report from a worker of the group that holds the trial.

        Drop reports on a trial that has ended, epochs reported before, and reports from another
        `group`.
        """
        trial = self.trials.get(name)
        if trial is None or (group is not None and self.assignments.get(group) != name):
            return
        trial.last_heartbeat = time.monotonic()
        if trial.ended or trial.stopped.is_set():
            return
        if isinstance(report, EpochRecord):
            if report.epoch <= trial.epoch:
                return
            trial.epoch, trial.ended = report.epoch, report.done
        trial.ended = trial.ended or isinstance(report, TrialFailure)
        trial.add_report(report)

    async def report_infrastructure_failure(self, name: str, message: str, group: int) -> None:
        """Record a failure of the environment; the group's next request counts as a death."""
        if self.assignments.get(group) == name:
            self.trials[name].failure = message

    async def record_heartbeat(
        self, name: str, group: int | None = None, activity: str = ""
    ) -> None:
        """Record a heartbeat between reports, and the worker's activity."""
        trial = self.trials.get(name)
        if trial and (group is None or self.assignments.get(group) == name):
            trial.last_heartbeat, trial.activity = time.monotonic(), activity or trial.activity

    async def register_worker(self, group: int, rank: int, worker: Any) -> None:
        """Register a worker of a group with the handle of its process."""
        self.workers.setdefault(group, {})[rank] = worker

    async def record_reader_heartbeat(self, reader: str, trial: str, process: Any) -> None:
        """Record a heartbeat of the trial's reader; it replaces an earlier, dead reader."""
        other_readers = {key: each for key, each in self.readers.items() if each.trial != trial}
        self.readers = other_readers | {reader: _Reader(trial, process)}

    async def remove_reader(self, reader: str) -> Any:
        """Remove a reader that will be ended; return its handle, or None if it is unknown."""
        removed = self.readers.pop(reader, None)
        return removed.process if removed else None

    async def add_note(self, text: str) -> None:
        """Queue a note for the user; a note that is already queued is dropped."""
        if text not in self.notes:
            self.notes.append(text)

    async def release_trial(self, group: int, name: str) -> None:
        """Release the trial and free its group, however the trial ended."""
        self._mark_reported(group)
        if self.assignments.get(group) == name:
            del self.assignments[group]
            if self.trials[name].ended:
                self.trials[name].stopped.set()  # else `wait_for_stop` would never return
        async with self.changed:
            self.changed.notify_all()

    async def is_released(self, name: str, wait_s: float) -> bool:
        """Wait at most `wait_s` seconds; return whether the trial and its folder are free."""

        def free() -> bool:
            return self.is_reconciled and name not in self.assignments.values()

        async with self.changed:
            with contextlib.suppress(TimeoutError):
                if not free():
                    await asyncio.wait_for(self.changed.wait_for(free), wait_s)
        return free()

    async def next_reports(
        self,
        name: str,
        wait_s: float,
        received: int | None = None,
        interval_s: float = 0.0,
        decision_epochs: Collection[int] = (),
    ) -> Answer:
        """Return the queued reports, at least one, or none after `wait_s` seconds.

        If the caller has `received` fewer answers than were sent, the last one was lost and is sent
        again. Answers are at least `interval_s` apart, unless one has the end of the trial or an
        epoch of `decision_epochs`.
        """
        trial, deadline = self.trials.get(name), time.monotonic() + wait_s
        if trial is None:
            return UnknownTrial()
        if received is not None and received < trial.num_sent:
            return trial.last
        due = trial.last_sent + interval_s
        while not trial.is_urgent(decision_epochs):
            remaining_s = (due if trial.reports else deadline) - time.monotonic()
            if remaining_s <= 0:
                break
            trial.reported.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(trial.reported.wait(), remaining_s)
        if trial.reports:
            trial.last, trial.last_sent = tuple(trial.reports), time.monotonic()
            trial.num_sent += 1
            trial.reports.clear()
            return trial.last
        return ()

    async def stop(self, name: str) -> None:
        """Stop a trial: notify its group, or remove it from the queue."""
        trial = self.trials.get(name)
        if trial is None:
            return
        trial.stopped.set()
        if name in self.waiting:
            self.waiting.remove(name)

    async def wait_for_stop(self, name: str) -> None:
        """Wait until the trial is stopped or replaced by another with its name."""
        await self.trials[name].stopped.wait()

    async def add_group(self, group: int) -> None:
        """Register one more group that takes trials."""
        self.groups.add(group)
        for name in self.waiting:
            self.trials[name].last_heartbeat = time.monotonic()  # restart their waiting time

    async def list_serving_groups(self) -> list[int]:
        """Return the groups whose workers have requested a trial."""
        return sorted(group for group in self.groups if group in self.request_counts)

    async def group_ended(self, group: int, error: str, lost: bool = False) -> bool:
        """Remove a group for good, and return whether it ever requested a trial.

        Another group resumes its trial, at most `max_failures` times. After the last group no trial
        can run, unless that was `lost` with its node: others may join.
        """
        served = group in self.request_counts
        self.groups.discard(group)
        self.unreported_groups.discard(group)
        self.ended_groups.add(group)
        self.workers.pop(group, None)
        # its open request gets no trial
        self.request_counts[group] = self.request_counts.get(group, 0) + 1
        self.last_error = error or self.last_error
        name = self.assignments.pop(group, None)
        if name:
            self._requeue(name, error)
        async with self.changed:
            self.changed.notify_all()
        if not (self.groups or lost or self.closed):
            await self.give_up(f"no worker group is left: {self.last_error}")
        return served

    async def give_up(self, reason: str) -> None:
        """Report to all waiting callers that training has ended; trials stay for a resume."""
        self.give_up_reason = reason
        self.waiting.clear()
        for trial in self.trials.values():
            if not (trial.ended or trial.stopped.is_set()):
                trial.add_report(NoWorkers(reason))

    async def close(self) -> None:
        """Stop all trials and send CLOSE to every group."""
        self.closed = True
        for trial in self.trials.values():
            trial.stopped.set()
        async with self.changed:
            self.changed.notify_all()

    async def get_overview(self) -> DispatcherOverview:
        """Return the present state, and the notes that were not fetched before."""
        notes = tuple(self.notes)
        self.notes.clear()
        trials: list[TrialOverview] = []
        if not self.closed:
            trials = [
                self._trial_overview(name, group)
                for group, name in sorted(self.assignments.items())
            ]
            if self.waiting and not trials:
                newest = max(self.waiting, key=lambda name: self.trials[name].last_heartbeat)
                trials = [self._trial_overview(newest, None)]
        return DispatcherOverview(
            instance_id=self.instance_id,
            has_group_list=self.has_group_list,
            unreported_groups=tuple(sorted(self.unreported_groups)),
            groups=tuple(sorted(self.groups)),
            serving_groups=tuple(await self.list_serving_groups()),
            waiting=len(self.waiting),
            last_error=self.last_error,
            trials=tuple(trials),
            readers=self._reader_overviews(),
            processes={key: (each.trial, each.process) for key, each in self.readers.items()},
            notes=notes,
        )

    def _reader_overviews(self) -> tuple[ReaderOverview, ...]:
        """Return the seconds since the last heartbeat of each Tune process.

        A process sends heartbeats until it deregisters, even after its trial has ended: its last
        record may not have been received.
        """
        now, readers = time.monotonic(), {} if self.closed else self.readers
        return tuple(
            ReaderOverview(key, each.trial, now - each.last_heartbeat)
            for key, each in readers.items()
        )

    async def evict_group(self, group: int) -> list[Any]:
        """Return the workers to end; the restarted group gets its trial again."""
        if group in self.assignments:
            trial = self.trials[self.assignments[group]]
            trial.last_heartbeat = time.monotonic()
            trial.failure = "it sent no heartbeat, and its group was restarted"
        return list(self.workers.pop(group, {}).values())

    async def describe(self, name: str) -> str:
        """Return the trial's group, the queue length and the live groups as text."""
        holder = next(
            (f"group {group}" for group, trial in self.assignments.items() if trial == name),
            "no group",
        )
        live = f"{len(self.groups)} live groups {self.last_error}".strip()
        return f"{name} is assigned to {holder}; {len(self.waiting)} queued trials, {live}"

    def _trial_overview(self, name: str, group: int | None) -> TrialOverview:
        trial = self.trials[name]
        workers = len(self.workers.get(group, ())) if group is not None else 0
        silent_s = time.monotonic() - trial.last_heartbeat
        return TrialOverview(name, group, workers, trial.activity, silent_s)

    def _has_trial(self) -> bool:
        return bool(self.waiting) and self.is_reconciled

    def _mark_reported(self, group: int) -> None:
        """Record that the group trains no trial of a dispatcher that died."""
        self.reported_groups.add(group)
        self.unreported_groups.discard(group)

    def _reassign(self, group: int) -> str | None:
        name = self.assignments.get(group)
        if name is None:
            return None
        trial = self.trials[name]
        is_over = trial.ended or trial.stopped.is_set() or self.closed
        if is_over or not self._count_death(name, "its worker died"):
            del self.assignments[group]
            trial.stopped.set()  # else `wait_for_stop` would occupy the actor permanently
            return None
        return name

    def _requeue(self, name: str, error: str) -> None:
        """Queue the trial for the first free group, unless it has failed too often."""
        trial = self.trials[name]
        trial.failure = error or trial.failure
        if (
            not trial.ended
            and not trial.stopped.is_set()
            and self._count_death(name, "its worker group was lost")
        ):
            self.waiting.appendleft(name)

    def _count_death(self, name: str, death: str) -> bool:
        """Count a death; report and return whether the trial is retried."""
        trial = self.trials[name]
        trial.failures += 1
        trial.last_heartbeat, trial.activity = time.monotonic(), "startup"
        cause, trial.failure = f": {trial.failure}" if trial.failure else "", ""
        if trial.failures > self.max_failures:
            counted = (
                f"{death} {trial.failures} times (resources.max_failures = {self.max_failures})"
            )
            hint = MEMORY_HINT.format(recipe=recipe_key(trial.spec.role))
            self._fail(name, f"{counted}{cause or hint}")
            return False
        self.notes.append(
            f"{name} continues from its checkpoint: {death} (failure {trial.failures} of at most "
            f"{self.max_failures}, resources.max_failures){cause}"
        )
        return True

    def _fail(self, name: str, message: str) -> None:
        trial = self.trials[name]
        if not trial.ended and not trial.stopped.is_set():
            trial.ended = True
            trial.add_report(TrialFailure(message))
