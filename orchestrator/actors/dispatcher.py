"""Where trials are left and worker groups take them; reports flow the other way. Knows names and records, no training.

One per sweep, as an actor that holds no CPU. Plain asyncio, so it runs in tests without Ray.
"""

import asyncio
import contextlib
import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

CLOSE = "close"
Record = dict[str, Any]


@dataclass
class _Trial:
    specification: dict[str, Any]
    records: "asyncio.Queue[Record]" = field(default_factory=asyncio.Queue)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    epoch: int = 0
    failures: int = 0
    ended: bool = False
    heard: float = field(default_factory=time.monotonic)


class Dispatcher:
    """A queue of trials; `held` says which group works on which trial until the group gives it back."""

    def __init__(self, groups: int, max_failures: int) -> None:
        self.groups, self.max_failures = set(range(groups)), max_failures
        self.trials: dict[str, _Trial] = {}
        self.waiting: deque[str] = deque()
        self.held: dict[int, str] = {}
        self.turns: dict[int, int] = {}
        self.closed = self.hopeless = False
        self.last_error = ""
        self.changed = asyncio.Condition()

    async def submit(self, name: str, specification: dict[str, Any]) -> None:
        """Queue a trial; its name may be used again after it ended or, to go on, when it was `released`."""
        before = self.trials.get(name)
        if before:
            before.stopped.set()
        self.trials[name] = _Trial(specification, failures=before.failures if before and not before.ended else 0)
        if self.hopeless:
            self._fail(name, f"no worker group is left: {self.last_error}")
            return
        async with self.changed:
            self.waiting.append(name)
            self.changed.notify_all()

    async def take(self, group: int, wait_s: float) -> tuple[str, dict[str, Any]] | str | None:
        """The next trial for a group, CLOSE, or None after `wait_s` without one.

        A group that holds a trial and asks again has died in between: it gets the same trial, up to `max_failures` times.
        """
        turn = self.turns[group] = self.turns.get(group, 0) + 1
        again = self._taken_up_again(group)
        if again:
            return again, self.trials[again].specification
        async with self.changed:
            self.changed.notify_all()  # of what the group may have held
            try:
                await asyncio.wait_for(
                    self.changed.wait_for(lambda: self.closed or self.waiting or self.turns[group] != turn), wait_s
                )
            except TimeoutError:
                return None
            if self.turns[group] != turn:  # this request came from a worker that is dead: its successor asks
                return None
            if self.closed:
                return CLOSE
            if not self.waiting:  # the trial was stopped between the notice and now
                return None
            name = self.held[group] = self.waiting.popleft()
            self.trials[name].heard = time.monotonic()
            return name, self.trials[name].specification

    async def report(self, name: str, record: Record) -> None:
        """A record from a worker; those of a trial that has ended, and epochs that were reported before, are dropped."""
        trial = self.trials[name]
        trial.heard = time.monotonic()
        if trial.ended or trial.stopped.is_set() or record.get("epoch", trial.epoch + 1) <= trial.epoch:
            return
        trial.epoch = record.get("epoch", trial.epoch)
        trial.ended = bool(record.get("done") or record.get("failed"))
        trial.records.put_nowait(record)

    async def alive(self, name: str) -> None:
        """A sign of life between reports."""
        self.trials[name].heard = time.monotonic()

    async def give_back(self, group: int, name: str) -> None:
        """The group is through with the trial, however it ended."""
        if self.held.get(group) == name:
            del self.held[group]
        if self.trials[name].ended:
            self.trials[name].stopped.set()  # or `until_stopped` would occupy the actor for ever
        async with self.changed:
            self.changed.notify_all()

    async def released(self, name: str, wait_s: float) -> bool:
        """Whether, within `wait_s`, no group holds the trial any more: nobody reads or writes its folder then."""
        async with self.changed:
            with contextlib.suppress(TimeoutError):
                if name in self.held.values():
                    await asyncio.wait_for(self.changed.wait_for(lambda: name not in self.held.values()), wait_s)
        return name not in self.held.values()

    async def next_report(self, name: str, silence_s: float, wait_s: float = math.inf) -> Record:
        """The next record, an empty one after `wait_s`, `{"silent": ...}` when nothing was heard of the trial for `silence_s`."""
        trial = self.trials[name]
        until = time.monotonic() + wait_s
        while True:
            now, heard = time.monotonic(), self._heard(name)
            if heard + silence_s <= now:
                return {"silent": self.describe(name)}
            if until <= now:
                return {}
            try:
                return await asyncio.wait_for(trial.records.get(), min(heard + silence_s, until) - now)
            except TimeoutError:
                continue

    async def stop(self, name: str) -> None:
        """Nobody wants more of this trial: its group is told, or it leaves the queue."""
        trial = self.trials.get(name)
        if trial is None:
            return
        trial.stopped.set()
        if name in self.waiting:
            self.waiting.remove(name)

    async def until_stopped(self, name: str) -> None:
        """Returns when the trial is stopped, or was replaced by another of its name."""
        await self.trials[name].stopped.wait()

    async def add_group(self, group: int) -> None:
        """One more group takes trials from now on."""
        self.groups.add(group)
        self.hopeless = False
        for name in self.waiting:
            self.trials[name].heard = time.monotonic()  # they begin to wait for it

    async def serving(self) -> list[int]:
        """The groups whose workers have asked for a trial."""
        return [group for group in self.groups if group in self.turns]

    async def group_ended(self, group: int, error: str, lost: bool = False) -> bool:
        """A group is gone for good; when it was the last one, nothing that waits can run any more. Whether it ever asked for one.

        `lost`: with its node, which is no fault of the trial: another group takes that up, at most `max_failures` times; and when
        there is none, trials wait for whoever starts groups to find a place for one.
        """
        served = group in self.turns
        self.groups.discard(group)
        self.turns[group] = self.turns.get(group, 0) + 1  # what it still asks for would be lost
        self.last_error = error or self.last_error
        name = self.held.pop(group, None)
        if name and lost:
            self._queue_again(name, error)
        elif name:
            self._fail(name, f"its worker group ended: {error}")
        if not self.groups and not lost:
            self.hopeless = True
            while self.waiting:
                self._fail(self.waiting.popleft(), f"no worker group is left: {self.last_error}")
        async with self.changed:
            self.changed.notify_all()
        return served

    async def close(self) -> None:
        """Tell every group that there is nothing more."""
        self.closed = True
        for trial in self.trials.values():
            trial.stopped.set()
        async with self.changed:
            self.changed.notify_all()

    def _heard(self, name: str) -> float:
        """When there was last a sign of life; a trial that waits its turn lives as long as those before it do.

        While there is no group nobody is silent: who starts groups counts that time.
        """
        if not self.groups:
            return time.monotonic()
        before = list(self.held.values()) if name in self.waiting else []
        return max(self.trials[each].heard for each in (name, *before))

    def describe(self, name: str) -> str:
        """Who holds the trial, and how many others wait, in words."""
        holder = next((f"group {group}" for group, held in self.held.items() if held == name), "no group")
        alive = f"{len(self.groups)} groups live {self.last_error}".strip()
        return f"{holder} holds {name}, {len(self.waiting)} trials wait, {alive}"

    def _taken_up_again(self, group: int) -> str | None:
        name = self.held.get(group)
        if name is None:
            return None
        trial = self.trials[name]
        trial.failures += 1
        trial.heard = time.monotonic()
        if trial.failures > self.max_failures and not trial.ended:
            self._fail(name, f"its worker died {trial.failures} times (resources.max_failures = {self.max_failures})")
        if trial.ended or trial.stopped.is_set() or self.closed:
            del self.held[group]
            return None
        return name

    def _queue_again(self, name: str, error: str) -> None:
        """The trial goes on with whichever group is free first, if it has not lost too many."""
        trial = self.trials[name]
        trial.failures += 1
        trial.heard = time.monotonic()
        if trial.failures > self.max_failures:
            self._fail(name, f"it lost its group {trial.failures} times (resources.max_failures = {self.max_failures}): {error}")
        elif not trial.ended and not trial.stopped.is_set():
            self.waiting.appendleft(name)

    def _fail(self, name: str, message: str) -> None:
        trial = self.trials[name]
        if not trial.ended and not trial.stopped.is_set():
            trial.ended = True
            trial.records.put_nowait({"failed": message})
