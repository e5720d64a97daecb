"""Derive the values of a sweep's page from its records: methods, baselines, names, metrics."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from orchestrator.config.objectives import Goal, describe_objective
from orchestrator.data.dataset import SUMMARY_FILE, DataSummary, read_summary
from orchestrator.reporting.html._format import word
from orchestrator.store.environment import ENVIRONMENT, ENVIRONMENT_FILE
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.store.records import Sweep, Trial

T = TypeVar("T")


@dataclass(frozen=True)
class SweepView:
    """A sweep with values derived from its records.

    `data` is its data.json, and None if that cannot be read. `environment` is the recorded
    environment of the run; None if there is no record.
    """

    sweep: Sweep
    state: str
    data: DataSummary | None = None
    environment: dict[str, str] | None = None

    @classmethod
    def of(cls, sweep: Sweep) -> "SweepView":
        """Return the view of a sweep as it is in the store now."""
        data = read_or_note(
            sweep, sweep.folder / SUMMARY_FILE, lambda file: read_summary(file.parent)
        )
        environment = read_or_note(sweep, sweep.folder / ENVIRONMENT_FILE, ENVIRONMENT.read)
        return cls(sweep, str(sweep.status()["state"]), data, environment)

    @property
    def goal(self) -> Goal:
        """Return the objective that trials are compared by."""
        return self.sweep.goals[0]

    @property
    def objective(self) -> str:
        """Return the description of the objective."""
        return describe_objective(self.sweep.configuration, self.goal.name)

    @property
    def searched(self) -> bool:
        """Return whether this is a sweep and not a single training."""
        return self.sweep.kind == "sweep"

    @property
    def epochs(self) -> int:
        """Return the epochs of a whole trial."""
        return self.sweep.configuration.training.epochs

    @cached_property
    def trials(self) -> list[Trial]:
        """Return all trials in order of their numbers."""
        return [trial for _, trial in sorted(self.sweep.trials.items())]

    @cached_property
    def complete(self) -> list[Trial]:
        """Return the complete trials, the best first."""
        return [trial for trial in self.sweep.ranked() if trial.state == "complete"]

    def state_of(self, trial: Trial) -> str:
        """Return the state of a trial. Without a driver no trial is running."""
        return "waiting" if trial.state == "running" and self.state != "running" else trial.state

    def method(self, trial: Trial) -> str:
        """Return the method of a trial."""
        return str(trial.settings.get("method.name", self.sweep.configuration.method.name))

    @cached_property
    def methods(self) -> list[str]:
        """Return the sorted methods that were tried.

        The index of a method is the number of its style.
        """
        return sorted({self.method(trial) for trial in self.trials})

    def label(self, trial: Trial) -> str:
        """Return a short name of a trial."""
        if len(self.methods) > 1:
            return f"trial {trial.number} ({self.method(trial)})"
        return f"trial {trial.number}"

    def settings(self, trial: Trial) -> str:
        """Return the parameters in force, without the method and without its name as a prefix.

        It is for places that already show the method.
        """
        method = self.method(trial)
        plain = {
            name.removeprefix(f"{method}."): value
            for name, value in trial.settings.items()
            if name != "method.name"
        }
        return (
            ", ".join(f"{name}={word(value)}" for name, value in plain.items())
            or "the configured settings"
        )

    def best_of_methods(self) -> list[Trial]:
        """Return the best trial of each method, the best first.

        A method without a complete trial is represented by its best stopped trial.
        """
        best: dict[str, Trial] = {}
        for trial in self.sweep.ranked():
            best.setdefault(self.method(trial), trial)
        return list(best.values())

    def shown(self, count: int) -> list[Trial]:
        """Return the `count` best trials and the best of every other method.

        A student is compared with its baselines.
        """
        best = {trial.number for trial in self.best_of_methods()}
        return [
            trial
            for place, trial in enumerate(self.sweep.ranked())
            if place < count or trial.number in best
        ]

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes; empty if they are not known."""
        return self.data.classes if self.data else []

    def samples(self, part: str) -> int | None:
        """Return the number of samples of a part, or None if it is not known."""
        return (asdict(self.data.sizes)[part] or None) if self.data else None

    def standard_error(self, accuracy: float, part: str) -> float | None:
        """Return the binomial standard error of an accuracy on a part.

        The result is None if the size of the part is not known.
        """
        size = self.samples(part)
        return math.sqrt(max(accuracy * (1 - accuracy), 0.0) / size) if size else None


def read_or_note(sweep: Sweep, file: Path, read: Callable[[Path], T]) -> T | None:
    """Return the content of a file of the sweep, or None if it cannot be read.

    A damaged file is noted with the sweep.
    """
    try:
        return read(file)
    except DamagedRecordError as error:
        if file.exists():
            sweep.damaged[file] = error.reason
        return None


def measure(trial: Trial, name: str) -> float | None:
    """Return a metric of a trial, or None if it is not a finite number."""
    value = trial.metrics.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
