"""Where trials are left and worker groups take them; reports flow the other way. Knows names and records, no training.

One per sweep, as an actor that holds no CPU. Plain asyncio, so it runs in tests without Ray. When its process dies, Ray starts it
again, empty: whoever waits for a trial submits it again, and nothing is handed out before each group has said that it is free.
"""

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.trial import recipe_key

CLOSE = "close"
SHORT = ": see the log of Ray; where memory is short, lower {recipe}.batch_size or resources.groups"
NOTES = 100  # that nobody has fetched yet
Record = dict[str, Any]


@dataclass
class _Trial:
    """`told` records were handed on, the `last` of them may be asked for again; `fault` is what its last group gave up for."""

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
    """Whoever waits for the records of a trial: a handle of its process."""

    trial: str
    process: Any
    heard: float = field(default_factory=time.monotonic)


class Dispatcher:
    """A queue of trials; `held` says which group works on which trial until the group gives it back.

    `again`: the one before it died. Then `recover` says which groups there are, and those are `missing` that have not been heard.
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
        """After a death of the dispatcher: these groups live, and each may still train what it was given before."""
        if self.introduced:
            return
        self.groups = (set(groups) | self.heard_of) - self.gone
        self.missing = self.groups - self.heard_of
        self.introduced = True
        async with self.changed:
            self.changed.notify_all()

    @property
    def settled(self) -> bool:
        """Whether it is known of every group what it holds."""
        return self.introduced and not self.missing

    async def submit(self, name: str, specification: dict[str, Any], token: str = "") -> None:
        """Queue a trial; its name may be used again after it ended or, to go on, when it was `released`.

        `token` is of this submission: one that is said twice, because the answer was lost, counts once.
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
        """The next trial for a group, CLOSE, or None after `wait_s` without one.

        A group that holds a trial and asks again has died in between: it gets the same trial, up to `max_failures` times.
        """
        turn = self.turns[group] = self.turns.get(group, 0) + 1
        self.groups.add(group)
        self.gone.discard(group)
        self._holds_nothing(group)
        again = self._taken_up_again(group)
        if again:
            return again, self.trials[again].specification
        async with self.changed:
            self.changed.notify_all()  # of what the group may have held
            try:
                await asyncio.wait_for(
                    self.changed.wait_for(lambda: self.closed or self._ready() or self.turns[group] != turn), wait_s
                )
            except TimeoutError:
                return None
            if self.turns[group] != turn:  # this request came from a worker that is dead: its successor asks
                return None
            if self.closed:
                return CLOSE
            if not self._ready():  # the trial was stopped between the notice and now
                return None
            name = self.held[group] = self.waiting.popleft()
            trial = self.trials[name]
            trial.heard, trial.doing = time.monotonic(), "its start"
            return name, trial.specification

    async def report(self, name: str, record: Record, group: int | None = None) -> None:
        """A record from a worker of the group that holds the trial.

        Those of a trial that has ended are dropped, as are epochs that were reported before, and what another `group` says.
        """
        trial = self.trials.get(name)
        if trial is None or (group is not None and self.held.get(group) != name):
            return
        trial.heard = time.monotonic()
        if trial.ended or trial.stopped.is_set() or record.get("epoch", trial.epoch + 1) <= trial.epoch:
            return
        trial.epoch = record.get("epoch", trial.epoch)
        trial.ended = bool(record.get("done") or record.get("failed"))
        trial.records.put_nowait(record)

    async def excuse(self, name: str, fault: str, group: int) -> None:
        """The group cannot go on with the trial, by no fault of the trial: it asks again, and that counts as a death."""
        if self.held.get(group) == name:
            self.trials[name].fault = fault

    async def alive(self, name: str, group: int | None = None, doing: str = "") -> None:
        """A sign of life between reports, and what the worker is doing."""
        trial = self.trials.get(name)
        if trial and (group is None or self.held.get(group) == name):
            trial.heard, trial.doing = time.monotonic(), doing or trial.doing

    async def enlist(self, group: int, rank: int, worker: Any) -> None:
        """Who works in a group: a handle of the worker's process."""
        self.workers.setdefault(group, {})[rank] = worker

    async def attend(self, reader: str, trial: str, process: Any) -> None:
        """A sign of life of the process that waits for the trial's records; it takes the place of another one, which died."""
        others = {key: each for key, each in self.readers.items() if each.trial != trial}
        self.readers = others | {reader: _Reader(trial, process)}

    async def forget_reader(self, reader: str) -> Any:
        """The handle of a process that is to be ended; None where it is not known any more."""
        found = self.readers.pop(reader, None)
        return found.process if found else None

    async def say(self, text: str) -> None:
        """A sentence for a person; said twice before anybody fetched it, it counts once."""
        if text not in self.notes:
            self.notes.append(text)

    async def give_back(self, group: int, name: str) -> None:
        """The group is through with the trial, however it ended."""
        self._holds_nothing(group)
        if self.held.get(group) == name:
            del self.held[group]
            if self.trials[name].ended:
                self.trials[name].stopped.set()  # or `until_stopped` would occupy the actor for ever
        async with self.changed:
            self.changed.notify_all()

    async def released(self, name: str, wait_s: float) -> bool:
        """Whether, within `wait_s`, no group holds the trial any more: nobody reads or writes its folder then."""

        def free() -> bool:
            return self.settled and name not in self.held.values()

        async with self.changed:
            with contextlib.suppress(TimeoutError):
                if not free():
                    await asyncio.wait_for(self.changed.wait_for(free), wait_s)
        return free()

    async def next_report(self, name: str, wait_s: float, received: int | None = None) -> Record:
        """The next record, an empty one after `wait_s`; `{"unknown": True}` of a trial that was not submitted here.

        `received`: so many the caller has; the last one is told again if it was lost on its way.
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
        for name in self.waiting:
            self.trials[name].heard = time.monotonic()  # they begin to wait for it

    async def serving(self) -> list[int]:
        """The groups whose workers have asked for a trial."""
        return sorted(group for group in self.groups if group in self.turns)

    async def group_ended(self, group: int, error: str, lost: bool = False) -> bool:
        """A group is gone for good: another one takes its trial up, at most `max_failures` times. Whether it ever asked for one.

        With the last group nothing that waits can run any more, unless it was `lost` with its node: others may come.
        """
        served = group in self.turns
        self.groups.discard(group)
        self.missing.discard(group)
        self.gone.add(group)
        self.workers.pop(group, None)
        self.turns[group] = self.turns.get(group, 0) + 1  # what it still asks for would be lost
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
        """Nothing can be trained here any more; trials stay as they are for a resume, and whoever waits for them hears why."""
        self.unfit = reason
        self.waiting.clear()
        for trial in self.trials.values():
            if not (trial.ended or trial.stopped.is_set()):
                trial.records.put_nowait({"unfit": reason})

    async def close(self) -> None:
        """Tell every group that there is nothing more."""
        self.closed = True
        for trial in self.trials.values():
            trial.stopped.set()
        async with self.changed:
            self.changed.notify_all()

    async def overview(self) -> dict[str, Any]:
        """Who is there and for how long nothing was heard of whom, with the sentences that nobody has fetched yet.

        `trials` are those that a group holds, with the number of its workers; where none does, the one that waits since last.
        `processes` are those that have shown a sign of life here: by reader, its trial and its handle.
        """
        notes = list(self.notes)
        self.notes.clear()
        trials = [] if self.closed else [self._seen(name, group) for group, name in sorted(self.held.items())]
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
        """Return the seconds since the last sign of life of every Tune process.

        A process sends them until it deregisters, also when its trial has ended: its last record may not have been received.
        """
        now, found = time.monotonic(), {} if self.closed else self.readers
        return [{"reader": key, "name": each.trial, "silent_s": now - each.heard} for key, each in found.items()]

    async def dismiss(self, group: int) -> list[Any]:
        """The group is to be replaced: its workers, for whoever ends them. What it holds it finds again when it comes back."""
        if group in self.held:
            self.trials[self.held[group]].heard = time.monotonic()
            self.trials[self.held[group]].fault = "nothing was heard of it, and its group was replaced"
        return list(self.workers.pop(group, {}).values())

    async def describe(self, name: str) -> str:
        """Who holds the trial, and how many others wait, in words."""
        holder = next((f"group {group}" for group, held in self.held.items() if held == name), "no group")
        alive = f"{len(self.groups)} groups live {self.last_error}".strip()
        return f"{holder} holds {name}, {len(self.waiting)} trials wait, {alive}"

    def _seen(self, name: str, group: int | None) -> dict[str, Any]:
        trial = self.trials[name]
        workers = len(self.workers.get(group, ())) if group is not None else 0
        silent_s = time.monotonic() - trial.heard
        return {"name": name, "group": group, "workers": workers, "doing": trial.doing, "silent_s": silent_s}

    def _ready(self) -> bool:
        return bool(self.waiting) and self.settled

    def _holds_nothing(self, group: int) -> None:
        """What the group trained for a dispatcher that died, it trains no more."""
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
            trial.stopped.set()  # or `until_stopped` would occupy the actor for ever
            return None
        return name

    def _queue_again(self, name: str, error: str) -> None:
        """The trial goes on with whichever group is free first, if it has not lost too many."""
        trial = self.trials[name]
        trial.fault = error or trial.fault
        if not trial.ended and not trial.stopped.is_set() and self._outlived(name, "it lost its group"):
            self.waiting.appendleft(name)

    def _outlived(self, name: str, death: str) -> bool:
        """Whether the trial goes on after one more death; it is said either way."""
        trial = self.trials[name]
        trial.failures += 1
        trial.heard, trial.doing = time.monotonic(), "its start"
        reason, trial.fault = f": {trial.fault}" if trial.fault else "", ""
        if trial.failures > self.max_failures:
            counted = f"{death} {trial.failures} times (resources.max_failures = {self.max_failures})"
            short = SHORT.format(recipe=recipe_key(str(trial.specification.get("role"))))
            self._fail(name, f"{counted}{reason or short}")
            return False
        self.notes.append(
            f"{name} goes on from its checkpoint: {death} ({trial.failures} of {self.max_failures} deaths that "
            f"resources.max_failures allows){reason}"
        )
        return True

    def _fail(self, name: str, message: str) -> None:
        trial = self.trials[name]
        if not trial.ended and not trial.stopped.is_set():
            trial.ended = True
            trial.records.put_nowait({"failed": message})
