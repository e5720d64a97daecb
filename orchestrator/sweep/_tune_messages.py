"""Define what the driver and the proxies exchange, and convert it to Tune's dictionaries."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.trial import Folders
from orchestrator.core.reports import EpochRecord, NoWorkers, TrialFailure


@dataclass(frozen=True, slots=True)
class SharedSettings:
    """Values of all trials of a sweep.

    Attributes:
        dispatcher: The name of the dispatcher.
        folders: The folders of the sweep.
        objective: The name of the objective.
        heartbeat_timeout_s: The longest time without a heartbeat (s).
        decision_epochs: The epochs after which the scheduler decides on a trial that does not
            pause; it may decide on other epochs later.
    """

    dispatcher: str
    folders: Folders
    objective: str
    heartbeat_timeout_s: float
    decision_epochs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """Assignment of a trial to its proxy, as the `config` of a Tune trial.

    Attributes:
        number: The number of the trial.
        configuration: The configuration as JSON text, because Tune flattens nested values and names
            folders after them.
        error: Why the trial could not be built; then it has no configuration.
        known: The last epoch in the driver's record; the driver may have died before it received
            later ones.
        until: The epoch after which the worker stops and Tune pauses the trial. Without it the
            trial trains to its end.
        snapshot: The folder from which a resumed trial starts, if it exists.
        token: The token of the driver's submission of the trial; "" if the proxy submits it.
    """

    number: int
    configuration: str = ""
    error: str = ""
    known: int = 0
    until: int | None = None
    snapshot: str | None = None
    token: str = ""

    @classmethod
    def from_tune(cls, config: dict[str, Any]) -> "ProxyConfig":
        """Return the assignment in the `config` of a Tune trial."""
        return cls(**{name: config[name] for name in cls.__slots__ if name in config})

    def to_tune(self) -> dict[str, Any]:
        """Return the assignment as the `config` of a Tune trial, without empty values."""
        return {key: value for key, value in asdict(self).items() if value not in ("", None)}

    @property
    def snapshot_folder(self) -> Path | None:
        """Return the folder of the snapshot, if it exists."""
        return Path(self.snapshot) if self.snapshot and Path(self.snapshot).is_dir() else None


# the records of a step: those that are not compared, then the current one
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
    if record.behind:
        result["behind"] = True
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
        bool(result.get("behind")),
    )
    return (*result.get("missed", ()), record)
