"""The caller's side of the dispatcher. Imports no torch: a stand-in is a process of its own, and torch costs it two seconds."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from orchestrator.errors import EnvironmentUnfitError

NAMESPACE = "distillation"
ASK_S = 30.0  # the dispatcher is asked anew so often, so that no call waits without a limit
REPLY_S = 60.0


@dataclass(frozen=True)
class Desk:
    """The driver's side of the dispatcher; `name` finds it from any process of the cluster."""

    name: str
    dispatcher: Any
    at_once: Callable[[], int] = lambda: 0
    """How many trials train at a time; the driver knows."""

    @classmethod
    def find(cls, name: str) -> "Desk":
        """The desk of that name."""
        return cls(name, ray.get_actor(name, namespace=NAMESPACE))

    def submit(self, trial: str, specification: dict[str, Any]) -> None:
        """Queue a trial."""
        self._ask(self.dispatcher.submit.remote(trial, specification))

    def next_report(self, trial: str, silence_s: float) -> dict[str, Any]:
        """The next record of the trial; EnvironmentUnfitError says what it waited for when nothing was heard of it."""
        record: dict[str, Any] = {}
        while not record:
            record = self._ask(self.dispatcher.next_report.remote(trial, silence_s, ASK_S))
        if "silent" in record:
            raise EnvironmentUnfitError(
                f"nothing was heard for {silence_s:g} s while waiting for a report: {record['silent']}; "
                "see the cluster's load, or raise resources.wait_s"
            )
        return record

    def wait_until_released(self, trial: str, wait_s: float) -> None:
        """Return when no group holds the trial; EnvironmentUnfitError says who still does after `wait_s`."""
        until = time.monotonic() + wait_s
        while not self._ask(self.dispatcher.released.remote(trial, min(ASK_S, max(until - time.monotonic(), 0.0)))):
            if time.monotonic() >= until:
                raise EnvironmentUnfitError(
                    f"the trial was not given back within {wait_s:g} s: {self._ask(self.dispatcher.describe.remote(trial))}; "
                    "see the cluster's load, or raise resources.wait_s"
                )

    def stop(self, trial: str) -> None:
        """End a trial early and free its group."""
        self._ask(self.dispatcher.stop.remote(trial))

    @staticmethod
    def _ask(answer: Any) -> Any:
        try:
            return ray.get(answer, timeout=ASK_S + REPLY_S)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.RayActorError) as error:
            raise EnvironmentUnfitError(
                f"the dispatcher does not answer ({type(error).__name__}): resume the sweep when Ray is well"
            ) from error
