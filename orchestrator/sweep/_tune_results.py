"""Convert the reports on a trial to the results that Tune takes, and back."""

import json
from typing import Any

from orchestrator.core.reports import EpochRecord, NoWorkers, TrialFailure

# the records of a step: those that a driver missed, then the current one
Step = tuple[EpochRecord, ...] | TrialFailure | NoWorkers


def to_result(step: Step, objective: str) -> dict[str, Any]:
    """Return a step of a trial as a Tune result.

    A failure is the last result of its trial. With `unfit` no worker can train the trial any more.
    """
    if isinstance(step, TrialFailure):
        return {"failed": step.message, "done": True}
    if isinstance(step, NoWorkers):
        return {"unfit": step.reason, "done": True}
    *missed, record = step
    result: dict[str, Any] = {
        "epoch": record.epoch,
        # as text: Tune keeps a history of each number, 100 KiB a trial and 10 ms a report
        "metrics": json.dumps(record.metrics),
        "done": record.done,
    }
    if objective in record.metrics:
        result[objective] = record.metrics[objective]
    if record.notes:
        result["notes"] = record.notes
    return result | ({"missed": missed} if missed else {})


def from_result(result: dict[str, Any]) -> Step:
    """Return the step of a trial in a Tune result, which may contain no epoch."""
    if result.get("failed"):
        return TrialFailure(result["failed"])
    if result.get("unfit"):
        return NoWorkers(result["unfit"])
    if not result.get("epoch"):
        return ()
    record = EpochRecord(
        result["epoch"],
        json.loads(result["metrics"]),
        bool(result.get("done")),
        tuple(result.get("notes", ())),
    )
    return (*result.get("missed", ()), record)
