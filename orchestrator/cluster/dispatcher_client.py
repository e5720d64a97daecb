"""Call the dispatcher from the driver and from the trials' processes.

The caller survives a death of the dispatcher. Ray restarts the dispatcher, and the client resubmits
a trial that is unknown to it. This module imports no torch: it would cost the process of each trial
two seconds.
"""

import contextlib
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import ray

from orchestrator.cluster._controllers import ANSWER_S, end_controller
from orchestrator.cluster._dispatcher import Dispatcher
from orchestrator.cluster.overview import DispatcherOverview
from orchestrator.config.trial import TrialSpec
from orchestrator.core.errors import DispatcherTimeoutError, PreflightError
from orchestrator.core.reports import Answer, EpochRecord, NoWorkers, Report, UnknownTrial
from orchestrator.core.signals import remaining_timeout

NAMESPACE = "distillation"
CALL_S = 30.0  # limit of one call, which is then repeated; every call has a limit
REPLY_S = 30.0  # answers take milliseconds; else the actor, its node or the driver is gone
PATIENCE_S = 120.0  # calls are repeated for this long
PAUSE_S = 0.5
SLICE_S = 1.0  # of a wait, after which pending signals are handled
SPARE_S = 4.0  # of the time after a signal, reserved for the remaining work


def run_name(name: str, group: int) -> str:
    """Return the name of the Ray Train run of a group of that dispatcher."""
    return f"{name}-group-{group}"


def wait_for_answer(
    call: Callable[[], Any], reply_s: float = REPLY_S, patience_s: float = PATIENCE_S
) -> Any:
    """Return the dispatcher's answer to a call that may be repeated.

    Args:
        call: Function that calls the dispatcher and returns Ray's reference.
        reply_s: Time limit of one call in seconds.
        patience_s: Time limit in seconds after the first failed call, since a call itself may wait
            for long.

    Raises:
        DispatcherTimeoutError: The dispatcher did not respond within `patience_s`, or within the
            time left after a signal.
    """
    first_failure_at = math.inf
    while True:
        try:
            return _reply(call(), reply_s)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError) as error:
            first_failure_at = min(first_failure_at, time.monotonic())
            if time.monotonic() - first_failure_at >= patience_s or not remaining_timeout(
                math.inf, SPARE_S
            ):
                raise DispatcherTimeoutError(
                    f"the trial dispatcher has not answered for {patience_s:g} s "
                    f"({type(error).__name__}): check the Ray logs and, on a running cluster, "
                    "`ray status`"
                ).with_details(
                    "dispatcher", type(error).__name__, f"an answer within {patience_s:g} s"
                ) from error
            time.sleep(PAUSE_S)


def _reply(answer: Any, reply_s: float) -> Any:
    """Return the answer within `reply_s` seconds, sooner after a signal.

    Raise GetTimeoutError if there is none.
    """
    until = time.monotonic() + reply_s
    while (
        remaining_s := min(until - time.monotonic(), remaining_timeout(math.inf, SPARE_S))
    ) > SLICE_S:
        with contextlib.suppress(ray.exceptions.GetTimeoutError):
            return ray.get(answer, timeout=SLICE_S)
    return ray.get(answer, timeout=max(remaining_s, 0.0))


class DispatcherActor(Dispatcher):
    """Dispatcher as an actor, which detects that it was restarted."""

    def __init__(self, groups: int, max_failures: int) -> None:
        super().__init__(
            groups,
            max_failures,
            restarted=ray.get_runtime_context().was_current_actor_reconstructed,
        )


@dataclass
class _Submission:
    """Submitted trial and its progress.

    `received` counts the answers from this dispatcher; `epoch` is the last one from any. `reports`
    are those that the caller has not requested yet.
    """

    spec: TrialSpec
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    received: int = 0
    epoch: int = 0
    reports: deque[Report | NoWorkers] = field(default_factory=deque)


@dataclass(frozen=True)
class DispatcherClient:
    """Client of the dispatcher; `name` finds it from any process of the cluster."""

    name: str
    dispatcher: Any
    submissions: dict[str, _Submission] = field(default_factory=dict, compare=False)
    max_concurrent_trials: Callable[[], int] = lambda: 0
    """Return the number of trials that train at a time; set in the driver alone."""

    @classmethod
    def find(cls, name: str) -> "DispatcherClient":
        """Return the client of the dispatcher of that name."""
        return cls(name, ray.get_actor(name, namespace=NAMESPACE))

    def submit(self, spec: TrialSpec) -> None:
        """Queue a trial."""
        self.submissions[spec.name] = _Submission(spec)
        self._submit(spec.name)

    def submit_for_reader(self, spec: TrialSpec) -> str:
        """Queue a trial whose reports another process reads; return the token of the submission."""
        token = uuid.uuid4().hex
        self._call("submit", spec, token)
        return token

    def attach(self, spec: TrialSpec, token: str) -> bool:
        """Read the reports on a trial that another process has submitted.

        Args:
            spec: The trial.
            token: The token of the submission.

        Returns:
            Whether this is possible; otherwise the trial has to be submitted again.
        """
        attached = bool(self._call("attach", spec.name, token))
        if attached:
            self.submissions[spec.name] = _Submission(spec, token)
        return attached

    def next_report(self, trial: str, heartbeat_timeout_s: float) -> Report:
        """Return the next report on the trial, however long it takes.

        Raises:
            PreflightError: No group can train the trial any more, or the dispatcher has not
                answered for `heartbeat_timeout_s`.
        """
        reports = self.submissions[trial].reports
        if not reports:
            reports.extend(self.next_reports(trial, heartbeat_timeout_s))
        report = reports.popleft()
        if isinstance(report, NoWorkers):
            raise PreflightError(report.reason).with_details("trial", report.reason)
        return report

    def next_reports(
        self,
        trial: str,
        heartbeat_timeout_s: float,
        interval_s: float = 0.0,
        decision_epochs: Collection[int] = (),
    ) -> list[Report | NoWorkers]:
        """Return the next reports on the trial, at least one, however long it takes.

        The watchdog handles trials without heartbeats.

        Args:
            trial: Name of a submitted trial.
            heartbeat_timeout_s: Time limit in seconds for an unresponsive dispatcher.
            interval_s: Shortest time in seconds since the last reports, except for the end of the
                trial and the epochs of `decision_epochs`.
            decision_epochs: Epochs after which a scheduler decides.

        Raises:
            PreflightError: The dispatcher has not answered for `heartbeat_timeout_s`.
        """
        submission = self.submissions[trial]
        while True:
            answer: Answer = wait_for_answer(
                lambda: self.dispatcher.next_reports.remote(
                    trial, CALL_S, submission.received, interval_s, decision_epochs
                ),
                CALL_S + REPLY_S,
                heartbeat_timeout_s,
            )
            if isinstance(answer, UnknownTrial):
                submission.received = 0
                # `known`: epochs that the worker need not report
                if (known := submission.spec.known) is not None:
                    submission.spec = submission.spec.model_copy(
                        update={"known": max(submission.epoch, known)}
                    )
                self._submit(trial)
            elif answer:
                submission.received += 1
                before = submission.epoch  # received before the dispatcher died
                reports = [
                    report
                    for report in answer
                    if not isinstance(report, EpochRecord) or report.epoch > before
                ]
                if reports:
                    submission.epoch = max(
                        report.epoch if isinstance(report, EpochRecord) else before
                        for report in reports
                    )
                    return reports

    def wait_until_released(self, trial: str, wait_s: float) -> None:
        """Wait until no group holds the trial.

        Raises:
            PreflightError: A group, named in the message, still holds the trial after `wait_s`
                seconds.
        """
        until = time.monotonic() + wait_s
        while not self._call("is_released", trial, min(CALL_S, max(until - time.monotonic(), 0.0))):
            if time.monotonic() >= until:
                holder = self._call("describe", trial)
                raise PreflightError(
                    f"the trial was not released within {wait_s:g} s: {holder}; check the load of "
                    "the cluster, and raise resources.heartbeat_timeout_s only if a single step "
                    "takes longer"
                ).with_details(
                    "resources.heartbeat_timeout_s",
                    wait_s,
                    "longer than a single step of the trial",
                )

    def is_released(self, trial: str) -> bool:
        """Return whether no group holds the trial at this moment."""
        return bool(self._call("is_released", trial, 0.0))

    def stop(self, trial: str) -> None:
        """End a trial early and free its group."""
        self._call("stop", trial)
        self.submissions.pop(trial, None)

    def group_ended(self, group: int, error: str, lost: bool = False) -> bool:
        """Report that a group has ended for good, and return whether it ever requested a trial.

        `lost` means that its node is gone too.
        """
        return bool(self._call("group_ended", group, error, lost))

    def get_overview(self, timeout_s: float) -> DispatcherOverview:
        """Return the present state of the dispatcher.

        Raises:
            RayError: The dispatcher does not answer within `timeout_s` seconds.
        """
        overview: DispatcherOverview = ray.get(
            self.dispatcher.get_overview.remote(), timeout=timeout_s
        )
        return overview

    def recover(self, groups: Iterable[int]) -> None:
        """Register the live groups after a death of the dispatcher."""
        self._call("recover", list(groups))

    def replace(self, group: int) -> bool:
        """End the workers of a group, so that Ray Train starts others.

        Their controller is ended too if it does not answer; then another group replaces this one.
        Return False if the group has no workers.
        """
        workers = self._call("evict_group", group)
        for worker in workers:
            ray.kill(worker, no_restart=True)
        end_controller(run_name(self.name, group), ANSWER_S)
        return bool(workers)

    def remove_lost_group(self, group: int, why: str) -> None:
        """Remove a group that is considered lost, and end its controller."""
        self.group_ended(group, why, lost=True)
        end_controller(run_name(self.name, group))

    def send_reader_heartbeat(self, reader: str, trial: str, process: Any) -> None:
        """Send a heartbeat of the process that reads the records of a trial; do not wait."""
        self.dispatcher.record_reader_heartbeat.remote(reader, trial, process)

    def deregister(self, reader: str) -> None:
        """Deregister a process that ends, without waiting for an answer."""
        self.dispatcher.remove_reader.remote(reader)

    def end_reader(self, reader: str) -> None:
        """End a Tune process that reads the records of a trial; Tune restarts it."""
        process = self._call("remove_reader", reader)
        if process is not None:
            ray.kill(process, no_restart=True)

    def end_process(self, process: Any) -> None:
        """End a Tune process that is unknown to the dispatcher; Tune restarts it."""
        ray.kill(process, no_restart=True)

    def restart(self) -> None:
        """End the dispatcher, so that Ray restarts it."""
        ray.kill(self.dispatcher, no_restart=False)

    def give_up(self, reason: str) -> None:
        """Send the reason why no more trials can be trained to all waiting callers.

        The trials stay for a resume.
        """
        self._call("give_up", reason)

    def _submit(self, trial: str) -> None:
        submission = self.submissions[trial]
        self._call("submit", submission.spec, submission.token)

    def _call(self, method: str, *arguments: Any) -> Any:
        return wait_for_answer(
            lambda: getattr(self.dispatcher, method).remote(*arguments), CALL_S + REPLY_S
        )
