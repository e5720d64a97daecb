"""When a sweep has failed too often in a row to go on, and what its failures have in common. Knows records, not who trains."""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.store.records import Trial

METHOD = "method.name"
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?")
MOST = 3  # settings that are told
CHARACTERS = 300  # of a message


class FailuresInARow:
    """Hears of ends, in their order; `reason` is said once `limit` trials in a row have failed (None: never)."""

    def __init__(self, limit: int | None, trials: dict[int, Trial]) -> None:
        self.limit, self.trials = limit, trials
        self.row: list[Trial] = []
        self.reason = ""

    def trial_started(self, trial: Trial) -> None:
        """It has not ended."""

    def trial_reported(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """It goes on."""

    def trial_changed(self, trial: Trial) -> None:
        """It goes on."""

    def trial_ended(self, trial: Trial) -> None:
        """One more that failed, or one that did not: then the row begins anew."""
        if trial.state == "failed":
            self.row.append(trial)
        elif trial.ended:
            self.row.clear()
        if self.limit is not None and len(self.row) >= self.limit and not self.reason:
            usable = [each for each in self.trials.values() if each.state in ("complete", "stopped_early")]
            many = f"the last {len(self.row)} trials have all failed" if len(self.row) > 1 else "the last trial has failed"
            self.reason = f"{many} (search.max_failed_trials = {self.limit}): {in_common(self.row, usable)}"

    def note(self, text: str) -> None:
        """No trial's end."""


def in_common(failed: Sequence[Trial], usable: Iterable[Trial]) -> str:
    """What trials that failed have in common, in words: their message, and settings that no usable trial has.

    Messages are the same where they differ in numbers alone; an epoch, an amount of memory.
    """
    last = failed[-1].message[:CHARACTERS]
    same = len({NUMBER.sub("#", trial.message) for trial in failed}) == 1
    said = f"each says: {last}" if same else f"each for a reason of its own, the last one: {last}"
    shared = _shared(failed, list(usable))
    return f"{said}; in common they have {', '.join(shared)}" if shared else said


def _shared(failed: Sequence[Trial], usable: Sequence[Trial]) -> list[str]:
    """Settings, as `name = value`, that all of the failed trials have and no usable one; the method first."""
    if len(failed) < 2:
        return []
    first, *others = (trial.settings for trial in failed)
    same = {key: value for key, value in first.items() if all(key in other and other[key] == value for other in others)}
    new = {key: value for key, value in same.items() if not any(_has(trial.settings, key, value) for trial in usable)}
    names = sorted(new, key=lambda key: (key != METHOD, key))[:MOST]
    return [f"{name} = {json.dumps(new[name])}" for name in names]


def _has(settings: dict[str, Any], key: str, value: Any) -> bool:
    return key in settings and bool(settings[key] == value)
