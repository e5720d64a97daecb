"""What is asked of a sweep again and again while its page is made: methods, baselines, names, measures. Reads records alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.config.objectives import Goal, describe_objective, watched_metrics
from orchestrator.data.dataset import SUMMARY_FILE, read_summary
from orchestrator.reporting.html._chart import Style, word
from orchestrator.store.environment import ENVIRONMENT, ENVIRONMENT_FILE
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.store.records import Sweep, Trial

T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """A sweep with what follows from its records. `data` is its data.json, empty where there is none that can be read.

    `environment` is what it ran on, as it wrote that down; None where it did not.
    """

    sweep: Sweep
    state: str
    data: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] | None = None

    @classmethod
    def of(cls, sweep: Sweep) -> "Facts":
        """The facts of a sweep as it stands in the store now."""
        data = read_or_note(sweep, sweep.folder / SUMMARY_FILE, lambda file: read_summary(file.parent)) or {}
        environment = read_or_note(sweep, sweep.folder / ENVIRONMENT_FILE, ENVIRONMENT.read)
        return cls(sweep, str(sweep.status()["state"]), data, environment)

    @property
    def goal(self) -> Goal:
        """The objective that trials are compared by."""
        return watched_metrics(self.sweep.configuration.search)

    @property
    def objective(self) -> str:
        """The objective in words."""
        return describe_objective(self.sweep.configuration, self.goal.name)

    @property
    def searched(self) -> bool:
        """Whether it is a sweep, and no single training."""
        return self.sweep.kind == "sweep"

    @property
    def epochs(self) -> int:
        """Epochs of a whole trial."""
        return self.sweep.configuration.training.epochs

    @cached_property
    def trials(self) -> list[Trial]:
        """All trials in order of their numbers."""
        return [trial for _, trial in sorted(self.sweep.trials.items())]

    @cached_property
    def complete(self) -> list[Trial]:
        """Complete trials, the best first."""
        return [trial for trial in self.sweep.ranked() if trial.state == "complete"]

    def state_of(self, trial: Trial) -> str:
        """The state of a trial, of which nothing is running where no driver is."""
        return "waiting" if trial.state == "running" and self.state != "running" else trial.state

    def method(self, trial: Trial) -> str:
        """The method of a trial."""
        return str(trial.settings.get("method.name", self.sweep.configuration.method.name))

    @cached_property
    def methods(self) -> list[str]:
        """The methods that were tried, in order of their names; a style's number is the place in it."""
        return sorted({self.method(trial) for trial in self.trials})

    def style(self, trial: Trial) -> Style:
        """How the marks of a trial look: as those of its method."""
        return Style(self.methods.index(self.method(trial)))

    def label(self, trial: Trial) -> str:
        """A trial in words."""
        return f"trial {trial.number} ({self.method(trial)})" if len(self.methods) > 1 else f"trial {trial.number}"

    def settings(self, trial: Trial) -> str:
        """The parameters in force, those of its method without the method's name; for where that stands already."""
        method = self.method(trial)
        own = {name.removeprefix(f"{method}."): value for name, value in trial.settings.items() if name != "method.name"}
        return ", ".join(f"{name}={word(value)}" for name, value in own.items()) or "the settings given"

    def best_of_methods(self) -> list[Trial]:
        """The best trial of each method, the best first; of one that has no complete trial the best that was stopped early."""
        found: dict[str, Trial] = {}
        for trial in self.sweep.ranked():
            found.setdefault(self.method(trial), trial)
        return list(found.values())

    def shown(self, count: int) -> list[Trial]:
        """So many of the best trials, and the best of every other method: a student is judged beside its baselines."""
        own = {trial.number for trial in self.best_of_methods()}
        return [trial for place, trial in enumerate(self.sweep.ranked()) if place < count or trial.number in own]

    @property
    def classes(self) -> list[str]:
        """The names of the classes, none where nothing says them."""
        return [str(name) for name in self.data.get("classes", [])]

    def samples(self, part: str) -> int | None:
        """How many samples a part has, where that is known."""
        size = self.data.get("sizes", {}).get(part)
        return int(size) if size else None

    def standard_error(self, accuracy: float, part: str) -> float | None:
        """Of an accuracy that was measured on a part, by the binomial distribution."""
        size = self.samples(part)
        return math.sqrt(max(accuracy * (1 - accuracy), 0.0) / size) if size else None


def read_or_note(sweep: Sweep, file: Path, read: Callable[[Path], T]) -> T | None:
    """Return what a file beside the sweep's record says, None without it; one that is damaged is noted with the sweep."""
    try:
        return read(file)
    except DamagedRecordError as error:
        if file.exists():
            sweep.damaged[file] = error.reason
        return None


def measure(trial: Trial, name: str) -> float | None:
    """A metric of a trial, where it is a number."""
    value = trial.metrics.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
