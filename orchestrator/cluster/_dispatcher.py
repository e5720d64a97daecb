"""Queue trials for worker groups, and return the groups' reports to the callers.

A sweep has one dispatcher, an actor that holds no CPU. It is plain asyncio, so tests run it without
Ray. If its process dies, Ray restarts it empty, and waiting callers resubmit their trials. No trial
is assigned before each group has reported that it is free.
"""

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.config.trial import recipe_key

CLOSE = "close"
SHORT = ": see the log of Ray; where memory is short, lower {recipe}.batch_size or resources.groups"
NOTES = 100  # kept until the driver fetches them
Record = dict[str, Any]


@dataclass
class _Trial:
    """State of a trial.

    `told` counts the delivered records, and `last` is kept for redelivery. `fault` is the reason of
    the last group's failure.
    """

    specification: dict[str, Any]
    token: str = ""
    records: "asyncio.Queue[Record]" = field(default_factory=asyncio.Queue)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    told: int = 0
    last: Record = field(default_factory=dict)
    epoch: int = 0
    failures: int = 0
    ended: bool = False
    heard: float = field(default_factory=time.monotonic)
    doing: str = "its turn"
    fault: str = ""


@dataclass
class _Reader:
    """Process that waits for the records of a trial, with its handle."""

    trial: str
    process: Any
    heard: float = field(default_factory=time.monotonic)


class Dispatcher:
    """Queue of trials; `held` maps each group to its trial until the group gives it back.

    `again` marks a restart after a death. `recover` then lists the groups, and `missing` are those
    that have not reported yet.
    """

    def __init__(self, groups: int, max_failures: int, again: bool = False) -> None:
        self.groups, self.max_failures = set(range(groups)), max_failures
        self.life, self.introduced = uuid.uuid4().hex, not again
        self.missing: set[int] = set()
        self.heard_of: set[int] = set()
        self.gone: set[int] = set()
        self.trials: dict[str, _Trial] = {}
        self.waiting: deque[str] = deque()
        self.held: dict[int, str] = {}
        self.turns: dict[int, int] = {}
        self.workers: dict[int, dict[int, Any]] = {}
        self.readers: dict[str, _Reader] = {}
        self.notes: deque[str] = deque(maxlen=NOTES)
        self.closed = False
        self.last_error = self.unfit = ""
        self.changed = asyncio.Condition()

    async def recover(self, groups: Iterable[int]) -> None:
        """Register the live groups after a restart; each may still train its earlier trial."""
        if self.introduced:
            return
        self.groups = (set(groups) | self.heard_of) - self.gone
        self.missing = self.groups - self.heard_of
        self.introduced = True
        async with self.changed:
            self.changed.notify_all()

    @property
    def settled(self) -> bool:
        """Return whether it is known of every group which trial it holds."""
        return self.introduced and not self.missing

    async def submit(self, name: str, specification: dict[str, Any], token: str = "") -> None:
        """Queue a trial.

        A name may be reused after its trial has ended, or to resume the trial once it is
        `released`. `token` identifies the submission: a repetition after a lost answer counts once.
        """
        before = self.trials.get(name)
        if before and token and before.token == token:
            return
        if before:
            before.stopped.set()
        failures = before.failures if before and not before.ended else 0
        self.trials[name] = trial = _Trial(specification, token, failures=failures)
        if self.unfit:
            trial.records.put_nowait({"unfit": self.unfit})
            return
        async with self.changed:
            self.waiting.append(name)
            self.changed.notify_all()

    async def take(self, group: int, wait_s: float) -> tuple[str, dict[str, Any]] | str | None:
        """Return the next trial for a group, CLOSE, or None after `wait_s` seconds without one.

        A group that holds a trial and requests again has died in between. It gets the same trial,
        up to `max_failures` times.
        """
        turn = self.turns[group] = self.turns.get(group, 0) + 1
        self.groups.add(group)
        self.gone.discard(group)
        self._holds_nothing(group)
        again = self._taken_up_again(group)
        if again:
            return again, self.trials[again].specification
        async with self.changed:
            self.changed.notify_all()  # the group may have released a trial
            try:
                await asyncio.wait_for(
                    self.changed.wait_for(
                        lambda: self.closed or self._ready() or self.turns[group] != turn
                    ),
                    wait_s,
                )
            except TimeoutError:
                return None
            if self.turns[group] != turn:  # the requester died and was replaced
                return None
            if self.closed:
                return CLOSE
            if not self._ready():  # the trial was stopped after the notification
                return None
            name = self.held[group] = self.waiting.popleft()
            trial = self.trials[name]
            trial.heard, trial.doing = time.monotonic(), "its start"
            return name, trial.specification

    async def report(self, name: str, record: Record, group: int | None = None) -> None:
        """Queue a record from a worker of the group that holds the trial.

        Drop records of a trial that has ended, epochs reported before, and records from another
        `group`.
        """
        trial = self.trials.get(name)
        if trial is None or (group is not None and self.held.get(group) != name):
            return
        trial.heard = time.monotonic()
        if (
            trial.ended
            or trial.stopped.is_set()
            or record.get("epoch", trial.epoch + 1) <= trial.epoch
        ):
            return
        trial.epoch = record.get("epoch", trial.epoch)
        trial.ended = bool(record.get("done") or record.get("failed"))
        trial.records.put_nowait(record)

    async def excuse(self, name: str, fault: str, group: int) -> None:
        """Record a fault not of the trial; the group's next request counts as a death."""
        if self.held.get(group) == name:
            self.trials[name].fault = fault

    async def alive(self, name: str, group: int | None = None, doing: str = "") -> None:
        """Record a heartbeat between reports, and the worker's activity."""
        trial = self.trials.get(name)
        if trial and (group is None or self.held.get(group) == name):
            trial.heard, trial.doing = time.monotonic(), doing or trial.doing

    async def enlist(self, group: int, rank: int, worker: Any) -> None:
        """Register a worker of a group with the handle of its process."""
        self.workers.setdefault(group, {})[rank] = worker

    async def attend(self, reader: str, trial: str, process: Any) -> None:
        """Record a heartbeat of the trial's reader; it replaces an earlier, dead reader."""
        others = {key: each for key, each in self.readers.items() if each.trial != trial}
        self.readers = others | {reader: _Reader(trial, process)}

    async def forget_reader(self, reader: str) -> Any:
        """Remove a reader that is to be ended; return its handle, or None if unknown."""
        found = self.readers.pop(reader, None)
        return found.process if found else None

    async def say(self, text: str) -> None:
        """Queue a note for the user; repeated before it is fetched, it counts once."""
        if text not in self.notes:
            self.notes.append(text)

    async def give_back(self, group: int, name: str) -> None:
        """Free the group of the trial, however it ended."""
        self._holds_nothing(group)
        if self.held.get(group) == name:
            del self.held[group]
            if self.trials[name].ended:
                self.trials[name].stopped.set()  # else `until_stopped` would never return
        async with self.changed:
            self.changed.notify_all()

    async def released(self, name: str, wait_s: float) -> bool:
        """Wait at most `wait_s` seconds; return whether the trial and its folder are free."""

        def free() -> bool:
            return self.settled and name not in self.held.values()

        async with self.changed:
            with contextlib.suppress(TimeoutError):
                if not free():
                    await asyncio.wait_for(self.changed.wait_for(free), wait_s)
        return free()

    async def next_report(self, name: str, wait_s: float, received: int | None = None) -> Record:
        """Return the next record, or an empty one after `wait_s` seconds.

        Return `{"unknown": True}` for a trial that was not submitted here. If the caller has
        `received` fewer records than were sent, the last one was lost and is sent again.
        """
        trial = self.trials.get(name)
        if trial is None:
            return {"unknown": True}
        if received is not None and received < trial.told:
            return trial.last
        try:
            record = await asyncio.wait_for(trial.records.get(), wait_s)
        except TimeoutError:
            return {}
        trial.told, trial.last = trial.told + 1, record
        return record

    async def stop(self, name: str) -> None:
        """Stop a trial: notify its group, or remove it from the queue."""
        trial = self.trials.get(name)
        if trial is None:
            return
        trial.stopped.set()
        if name in self.waiting:
            self.waiting.remove(name)

    async def until_stopped(self, name: str) -> None:
        """Wait until the trial is stopped or replaced by another of its name."""
        await self.trials[name].stopped.wait()

    async def add_group(self, group: int) -> None:
        """Register one more group that takes trials."""
        self.groups.add(group)
        for name in self.waiting:
            self.trials[name].heard = time.monotonic()  # their waiting time starts again

    async def serving(self) -> list[int]:
        """Return the groups whose workers have requested a trial."""
        return sorted(group for group in self.groups if group in self.turns)

    async def group_ended(self, group: int, error: str, lost: bool = False) -> bool:
        """Remove a group for good, and return whether it ever requested a trial.

        Another group resumes its trial, at most `max_failures` times. After the last group no trial
        can run, unless that was `lost` with its node: others may join.
        """
        served = group in self.turns
        self.groups.discard(group)
        self.missing.discard(group)
        self.gone.add(group)
        self.workers.pop(group, None)
        self.turns[group] = self.turns.get(group, 0) + 1  # its open request gets no trial
        self.last_error = error or self.last_error
        name = self.held.pop(group, None)
        if name:
            self._queue_again(name, error)
        async with self.changed:
            self.changed.notify_all()
        if not (self.groups or lost or self.closed):
            await self.give_up(f"no worker group is left: {self.last_error}")
        return served

    async def give_up(self, reason: str) -> None:
        """Report the end of all training to waiting callers; trials stay for a resume."""
        self.unfit = reason
        self.waiting.clear()
        for trial in self.trials.values():
            if not (trial.ended or trial.stopped.is_set()):
                trial.records.put_nowait({"unfit": reason})

    async def close(self) -> None:
        """Stop all trials and send CLOSE to every group."""
        self.closed = True
        for trial in self.trials.values():
            trial.stopped.set()
        async with self.changed:
            self.changed.notify_all()

    async def overview(self) -> dict[str, Any]:
        """Return the groups, the trials, the time since each last heartbeat, and unfetched notes.

        `trials` are those that a group holds, with its number of workers. If no group holds one, it
        is the queued trial that has waited least. `processes` maps each reader that has sent a
        heartbeat here to its trial and handle.
        """
        notes = list(self.notes)
        self.notes.clear()
        trials = (
            []
            if self.closed
            else [self._seen(name, group) for group, name in sorted(self.held.items())]
        )
        if self.waiting and not trials and not self.closed:
            trials = [self._seen(max(self.waiting, key=lambda name: self.trials[name].heard), None)]
        return {
            "life": self.life,
            "introduced": self.introduced,
            "missing": sorted(self.missing),
            "groups": sorted(self.groups),
            "serving": await self.serving(),
            "waiting": len(self.waiting),
            "last_error": self.last_error,
            "trials": trials,
            "readers": self._silent_readers(),
            "processes": {key: (each.trial, each.process) for key, each in self.readers.items()},
            "notes": notes,
        }

    def _silent_readers(self) -> list[dict[str, Any]]:
        """Return the seconds since the last heartbeat of every Tune process.

        A process sends heartbeats until it deregisters, even after its trial has ended: its last
        record may not have been received.
        """
        now, found = time.monotonic(), {} if self.closed else self.readers
        return [
            {"reader": key, "name": each.trial, "silent_s": now - each.heard}
            for key, each in found.items()
        ]

    async def dismiss(self, group: int) -> list[Any]:
        """Return the workers to end; the restarted group gets its trial again."""
        if group in self.held:
            self.trials[self.held[group]].heard = time.monotonic()
            self.trials[
                self.held[group]
            ].fault = "nothing was heard of it, and its group was replaced"
        return list(self.workers.pop(group, {}).values())

    async def describe(self, name: str) -> str:
        """Describe the trial's group, the queue and the live groups in words."""
        holder = next(
            (f"group {group}" for group, held in self.held.items() if held == name), "no group"
        )
        alive = f"{len(self.groups)} groups live {self.last_error}".strip()
        return f"{holder} holds {name}, {len(self.waiting)} trials wait, {alive}"

    def _seen(self, name: str, group: int | None) -> dict[str, Any]:
        trial = self.trials[name]
        workers = len(self.workers.get(group, ())) if group is not None else 0
        silent_s = time.monotonic() - trial.heard
        return {
            "name": name,
            "group": group,
            "workers": workers,
            "doing": trial.doing,
            "silent_s": silent_s,
        }

    def _ready(self) -> bool:
        return bool(self.waiting) and self.settled

    def _holds_nothing(self, group: int) -> None:
        """Record that the group has stopped its training for a dispatcher that died."""
        self.heard_of.add(group)
        self.missing.discard(group)

    def _taken_up_again(self, group: int) -> str | None:
        name = self.held.get(group)
        if name is None:
            return None
        trial = self.trials[name]
        over = trial.ended or trial.stopped.is_set() or self.closed
        if over or not self._outlived(name, "its worker died"):
            del self.held[group]
            trial.stopped.set()  # else `until_stopped` would occupy the actor for ever
            return None
        return name

    def _queue_again(self, name: str, error: str) -> None:
        """Queue the trial for the first free group, unless it has failed too often."""
        trial = self.trials[name]
        trial.fault = error or trial.fault
        if (
            not trial.ended
            and not trial.stopped.is_set()
            and self._outlived(name, "it lost its group")
        ):
            self.waiting.appendleft(name)

    def _outlived(self, name: str, death: str) -> bool:
        """Count a death; report and return whether the trial goes on."""
        trial = self.trials[name]
        trial.failures += 1
        trial.heard, trial.doing = time.monotonic(), "its start"
        reason, trial.fault = f": {trial.fault}" if trial.fault else "", ""
        if trial.failures > self.max_failures:
            counted = (
                f"{death} {trial.failures} times (resources.max_failures = {self.max_failures})"
            )
            short = SHORT.format(recipe=recipe_key(str(trial.specification.get("role"))))
            self._fail(name, f"{counted}{reason or short}")
            return False
        self.notes.append(
            f"{name} goes on from its checkpoint: {death} ({trial.failures} of "
            f"{self.max_failures} deaths that "
            f"resources.max_failures allows){reason}"
        )
        return True

    def _fail(self, name: str, message: str) -> None:
        trial = self.trials[name]
        if not trial.ended and not trial.stopped.is_set():
            trial.ended = True
            trial.records.put_nowait({"failed": message})
