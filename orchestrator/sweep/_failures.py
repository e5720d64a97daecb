"""Detect too many failures in a row in a sweep, and describe what the failures have in common."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.config.trial import Parameters
from orchestrator.store.records import Trial

METHOD = "method.name"
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
MOST = 3  # settings named in the reason
CHARACTERS = 300  # of a message


class FailuresInARow:
    """Listener that counts failures in a row, in the order of the trials' ends.

    `reason` is set once `limit` trials in a row have failed (None: never).
    """

    def __init__(self, limit: int | None, trials: dict[int, Trial]) -> None:
        self.limit, self.trials = limit, trials
        self.row: list[Trial] = []
        self.reason = ""

    def trial_started(self, trial: Trial) -> None:
        """Do nothing: the trial has not ended."""

    def trial_reported(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """Do nothing: the trial continues."""

    def trial_changed(self, trial: Trial) -> None:
        """Do nothing: the trial continues."""

    def trial_ended(self, trial: Trial) -> None:
        """Count a failure; reset the count at any other end."""
        if trial.state == "failed":
            self.row.append(trial)
        elif trial.ended:
            self.row.clear()
        if self.limit is not None and len(self.row) >= self.limit and not self.reason:
            usable = [
                each for each in self.trials.values() if each.state in ("complete", "stopped_early")
            ]
            if len(self.row) > 1:
                many = f"the last {len(self.row)} trials all failed"
            else:
                many = "the last trial failed"
            self.reason = (
                f"{many} (search.max_failed_trials = {self.limit}): "
                f"{describe_failures(self.row, usable)}"
            )

    def note(self, text: str) -> None:
        """Do nothing: a note ends no trial."""


def describe_failures(failed: Sequence[Trial], usable: Iterable[Trial]) -> str:
    """Describe what failed trials share: an error, and settings that no usable trial has.

    Messages that differ in numbers alone, such as an epoch or an amount of memory, count as the
    same.
    """
    last = failed[-1].message[:CHARACTERS]
    same = len({NUMBER.sub("#", trial.message) for trial in failed}) == 1
    description = f"same error: {last}" if same else f"different errors, the last one: {last}"
    common = _common_settings(failed, list(usable))
    return f"{description}; settings in common: {', '.join(common)}" if common else description


def _common_settings(failed: Sequence[Trial], usable: Sequence[Trial]) -> list[str]:
    """Return settings (`name = value`) of all failed trials and no usable one; the method first."""
    if len(failed) < 2:
        return []
    first, *rest = (trial.settings for trial in failed)
    same = {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in rest)
    }
    new = {
        key: value
        for key, value in same.items()
        if not any(_has(trial.settings, key, value) for trial in usable)
    }
    names = sorted(new, key=lambda key: (key != METHOD, key))[:MOST]
    return [f"{name} = {json.dumps(new[name])}" for name in names]


def _has(settings: Parameters, key: str, value: Any) -> bool:
    return key in settings and bool(settings[key] == value)
