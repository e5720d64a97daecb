"""The caller's side of the dispatcher. Imports no torch: a stand-in is a process of its own, and torch costs it two seconds.

Whoever asks outlives a death of the dispatcher: Ray starts it again, and a trial that it does not know any more is submitted anew.
"""

import contextlib
import math
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import ray

from orchestrator.cluster._controllers import ANSWER_S, end_controller
from orchestrator.cluster._dispatcher import Dispatcher
from orchestrator.core.errors import DispatcherTimeoutError, PreflightError
from orchestrator.core.signals import remaining_timeout

NAMESPACE = "distillation"
ASK_S = 30.0  # the dispatcher is asked anew so often, so that no call waits without a limit
REPLY_S = 30.0  # it answers within milliseconds; longer means that it, its node or the driver is gone
PATIENCE_S = 120.0  # for as long it is asked again
PAUSE_S = 0.5
SLICE_S = 1.0  # of a wait, after which a signal that came meanwhile is seen
SPARE_S = 4.0  # of an interruption, for what is still to be done


def run_name(name: str, group: int) -> str:
    """The run of Ray Train that is a group of the dispatcher of that name."""
    return f"{name}-group-{group}"


def wait_for_answer(call: Callable[[], Any], reply_s: float = REPLY_S, patience_s: float = PATIENCE_S) -> Any:
    """What the dispatcher answers to a call that may be made again.

    DispatcherTimeoutError when it has not for `patience_s` since the call first failed: a call may itself wait for long.
    """
    failed = math.inf
    while True:
        try:
            return _reply(call(), reply_s)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError) as error:
            failed = min(failed, time.monotonic())
            if time.monotonic() - failed >= patience_s or not remaining_timeout(math.inf, SPARE_S):
                raise DispatcherTimeoutError(
                    f"the dispatcher, which hands out trials, has not answered for {patience_s:g} s ({type(error).__name__}): "
                    "see whether Ray is well",
                    field="dispatcher",
                    value=type(error).__name__,
                    allowed=f"an answer within {patience_s:g} s",
                ) from error
            time.sleep(PAUSE_S)


def _reply(answer: Any, reply_s: float) -> Any:
    """The answer within `reply_s`, after a signal sooner; GetTimeoutError without one."""
    until = time.monotonic() + reply_s
    while (rest := min(until - time.monotonic(), remaining_timeout(math.inf, SPARE_S))) > SLICE_S:
        with contextlib.suppress(ray.exceptions.GetTimeoutError):
            return ray.get(answer, timeout=SLICE_S)
    return ray.get(answer, timeout=max(rest, 0.0))


class DispatcherActor(Dispatcher):
    """The dispatcher as an actor, which knows whether it had died."""

    def __init__(self, groups: int, max_failures: int) -> None:
        super().__init__(groups, max_failures, again=ray.get_runtime_context().was_current_actor_reconstructed)


@dataclass
class _Sent:
    """What was submitted, and how much of it was told: by this dispatcher (`received`), and on the whole."""

    specification: dict[str, Any]
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    received: int = 0
    epoch: int = 0


@dataclass(frozen=True)
class DispatcherClient:
    """The driver's side of the dispatcher; `name` finds it from any process of the cluster."""

    name: str
    dispatcher: Any
    sent: dict[str, _Sent] = field(default_factory=dict, compare=False)
    at_once: Callable[[], int] = lambda: 0
    """How many trials train at a time; the driver knows."""

    @classmethod
    def find(cls, name: str) -> "DispatcherClient":
        """The desk of that name."""
        return cls(name, ray.get_actor(name, namespace=NAMESPACE))

    def submit(self, trial: str, specification: dict[str, Any]) -> None:
        """Queue a trial."""
        self.sent[trial] = _Sent(specification)
        self._send(trial)

    def next_report(self, trial: str, wait_s: float) -> dict[str, Any]:
        """The next record of the trial, however long it takes: the watchdog looks after those of which nothing is heard.

        PreflightError when there is nobody to train it any more, or the dispatcher has not answered for `wait_s`.
        """
        sent = self.sent[trial]
        while True:
            record = wait_for_answer(
                lambda: self.dispatcher.next_report.remote(trial, ASK_S, sent.received), ASK_S + REPLY_S, wait_s
            )
            if "unfit" in record:
                raise PreflightError(record["unfit"], field="trial", value=record["unfit"])
            if "unknown" in record:
                sent.received = 0
                if (known := sent.specification.get("known")) is not None:  # epochs of which the worker need not tell
                    sent.specification = {**sent.specification, "known": max(sent.epoch, known)}
                self._send(trial)
            elif record:
                sent.received += 1
                if record.get("epoch", sent.epoch + 1) > sent.epoch:  # else it was told before the dispatcher died
                    sent.epoch = record.get("epoch", sent.epoch)
                    return dict(record)

    def wait_until_released(self, trial: str, wait_s: float) -> None:
        """Return when no group holds the trial; PreflightError says who still does after `wait_s`."""
        until = time.monotonic() + wait_s
        while not self._ask("released", trial, min(ASK_S, max(until - time.monotonic(), 0.0))):
            if time.monotonic() >= until:
                holder = self._ask("describe", trial)
                raise PreflightError(
                    f"the trial was not given back within {wait_s:g} s: {holder}; "
                    "see what it is at and the cluster's load, and raise resources.heartbeat_timeout_s only where a single step "
                    "takes longer",
                    field="resources.heartbeat_timeout_s",
                    value=wait_s,
                    allowed=f"longer than {holder}",
                )

    def released(self, trial: str) -> bool:
        """Whether no group holds the trial at this moment."""
        return bool(self._ask("released", trial, 0.0))

    def stop(self, trial: str) -> None:
        """End a trial early and free its group."""
        self._ask("stop", trial)
        self.sent.pop(trial, None)

    def group_ended(self, group: int, error: str, lost: bool = False) -> bool:
        """A group is gone for good, `lost` with its node; whether it ever asked for a trial."""
        return bool(self._ask("group_ended", group, error, lost))

    def overview(self, timeout_s: float) -> dict[str, Any]:
        """What the dispatcher sees now; RayError when it does not answer within `timeout_s`."""
        return dict(ray.get(self.dispatcher.overview.remote(), timeout=timeout_s))

    def recover(self, groups: Iterable[int]) -> None:
        """After a death of the dispatcher: these groups live."""
        self._ask("recover", list(groups))

    def replace(self, group: int) -> bool:
        """End the workers of a group, for Ray Train to start others in their place; False when it has none.

        Their controller is ended too where it does not answer: then another group takes the place of this one.
        """
        workers = self._ask("dismiss", group)
        for worker in workers:
            ray.kill(worker, no_restart=True)
        end_controller(run_name(self.name, group), ANSWER_S)
        return bool(workers)

    def lose(self, group: int, why: str) -> None:
        """A group is not counted on any more, and ends."""
        self.group_ended(group, why, lost=True)
        end_controller(run_name(self.name, group))

    def attend(self, reader: str, trial: str, process: Any) -> None:
        """A sign of life of the process that waits for the records of a trial; nobody waits for an answer."""
        self.dispatcher.attend.remote(reader, trial, process)

    def deregister(self, reader: str) -> None:
        """Send no more signs of life of a process that ends; nobody waits for an answer."""
        self.dispatcher.forget_reader.remote(reader)

    def end_reader(self, reader: str) -> None:
        """End a process that waits for the records of a trial; Tune starts it again."""
        process = self._ask("forget_reader", reader)
        if process is not None:
            ray.kill(process, no_restart=True)

    def end_process(self, process: Any) -> None:
        """End a process that waited for the records of a trial, and of which the dispatcher knows nothing; Tune starts it again."""
        ray.kill(process, no_restart=True)

    def restart(self) -> None:
        """End the dispatcher, for Ray to start it again."""
        ray.kill(self.dispatcher, no_restart=False)

    def give_up(self, reason: str) -> None:
        """Nothing can be trained any more: whoever waits for a trial hears why, and the trials stay for a resume."""
        self._ask("give_up", reason)

    def _send(self, trial: str) -> None:
        sent = self.sent[trial]
        self._ask("submit", trial, sent.specification, sent.token)

    def _ask(self, what: str, *arguments: Any) -> Any:
        return wait_for_answer(lambda: getattr(self.dispatcher, what).remote(*arguments), ASK_S + REPLY_S)
