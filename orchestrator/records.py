"""What a sweep leaves in the store: a file about it and one per trial, each replaced at every change.

The driver alone writes. `status` and a resume read them; the study holds the same values for the sampler.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from orchestrator.config import Configuration
from orchestrator.errors import ConfigurationError, nearest
from orchestrator.objectives import front, goals, watched
from orchestrator.reading import build
from orchestrator.store import Store, read_json, write_json

TrialState = Literal["complete", "stopped_early", "failed", "running", "waiting"]
FORMAT = 1


@dataclass
class Trial:
    """One trial as the sweep knows it; `value` is the objective of its last epoch, `notes` what a person should hear of it.

    `values` is all objectives of its last epoch where there are several; `value` and `history` are of the first one then.
    `history` is the objective of each epoch, null where none was told: a worker may be ahead of a driver that died.
    `params` is what the study drew. `changes` is what the trial took over: after `epoch` epochs the weights of the trial
    `source`, to go on with `params`.
    """

    number: int
    params: dict[str, Any]
    state: TrialState = "waiting"
    value: float | None = None
    epochs: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[float | None] = field(default_factory=list)
    message: str = ""
    notes: list[str] = field(default_factory=list)
    changes: list[dict[str, Any]] = field(default_factory=list)
    values: list[float] | None = None

    @property
    def known(self) -> list[tuple[int, float]]:
        """The epochs whose objective is known, with it."""
        return [(epoch, value) for epoch, value in enumerate(self.history, start=1) if value is not None]

    @property
    def settings(self) -> dict[str, Any]:
        """The parameters in force: those of the last change, or what the study drew."""
        return dict(self.changes[-1]["params"]) if self.changes else self.params

    @property
    def taken_over(self) -> str:
        """Whom it took over from, and when; empty for a trial of its own."""
        pairs = ", ".join(f"trial {change['source']} after epoch {change['epoch']}" for change in self.changes)
        return f"took over {pairs}" if pairs else ""

    @property
    def said(self) -> str:
        """Why it failed, and what else a person should hear of it, in one line."""
        return "; ".join(text for text in (self.message, self.taken_over, *self.notes) if text)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("complete", "stopped_early", "failed")


@dataclass
class Sweep:
    """The sweep in a folder of the store, with all its trials. `notes`: what a person should know of it, `time` (s) and `text`."""

    folder: Path
    configuration: Configuration
    kind: str
    state: str = "running"
    started: float = field(default_factory=time.time)
    seconds: float = 0.0
    notes: list[dict[str, Any]] = field(default_factory=list)
    trials: dict[int, Trial] = field(default_factory=dict)

    @classmethod
    def create(cls, folder: Path, configuration: Configuration, kind: str) -> "Sweep":
        """A new sweep; ConfigurationError when the name is taken."""
        cls.require_new(folder)
        folder.mkdir(parents=True)
        sweep = cls(folder, configuration, kind)
        sweep.save()
        return sweep

    @staticmethod
    def require_new(folder: Path) -> None:
        """ConfigurationError when there is a sweep in the folder."""
        if folder.exists():
            raise ConfigurationError(
                f"--name {folder.name!r} exists already in this store: give another, or go on with `sweep --resume {folder.name}`"
            )

    @classmethod
    def open(cls, store: Store, name: str) -> "Sweep":
        """A sweep that stands in the store; ConfigurationError names those that do."""
        folder = store.sweep(name)
        if not (folder / "sweep.json").exists():
            names = store.sweeps()
            known = nearest(name, names) if names else "there is none yet"
            raise ConfigurationError(f"there is no sweep {name!r} in {store.root}: {known}")
        values = read_json(folder / "sweep.json")
        if values.pop("format") > FORMAT:
            raise ConfigurationError(f"{folder} was written by a newer version of this program: update it to read the sweep")
        sweep = cls(folder, build(values.pop("configuration")), **values)
        trials = (Trial(**read_json(file)) for file in sorted(folder.glob("trials/*/trial.json")))
        sweep.trials = {trial.number: trial for trial in trials}
        return sweep

    @property
    def name(self) -> str:
        """The name of the sweep, its study and its parent run."""
        return self.folder.name

    @property
    def alive(self) -> bool:
        """Whether a driver runs it, on whatever node: it holds the lock for its life, however it ends."""
        if self.state != "running":
            return False
        try:
            with self._lock().acquire(timeout=0):
                return False
        except Timeout:
            return True

    @property
    def maximize(self) -> bool:
        """Whether a larger value is better."""
        return watched(self.configuration.search).direction == "maximize"

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Be the one driver of this sweep; ConfigurationError when another one is."""
        try:
            with self._lock().acquire(timeout=0):
                yield
        except Timeout as error:
            raise ConfigurationError(
                f"sweep {self.name!r} is run by another process at this moment: wait for it, or end it"
            ) from error

    def _lock(self) -> FileLock:
        return FileLock(self.folder / "driver.lock")

    def save(self) -> None:
        """Write the sweep's own file."""
        values = {key: value for key, value in vars(self).items() if key not in ("folder", "trials", "configuration")}
        write_json(self.folder / "sweep.json", {"format": FORMAT, **values, "configuration": self.configuration.plain()})

    def trial_folder(self, number: int) -> Path:
        """Where a trial keeps its record and its checkpoint."""
        return self.folder / "trials" / f"{number:05d}"

    def save_trial(self, trial: Trial) -> None:
        """Write one trial's file."""
        self.trials[trial.number] = trial
        write_json(self.trial_folder(trial.number) / "trial.json", asdict(trial))

    def ranked(self) -> list[Trial]:
        """Trials that can be used, the best first: those that trained all their epochs, then those that were stopped early."""
        return sorted(self._usable(), key=self._rank())

    def best(self) -> Trial | None:
        """The best trial; one that was stopped early only where none is complete: values of fewer epochs are another thing.

        Asked for at every end of a trial, so it sorts nothing.
        """
        return min(self._usable(), key=self._rank(), default=None)

    def _usable(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.value is not None and trial.state in ("complete", "stopped_early")]

    def _rank(self) -> Callable[[Trial], tuple[bool, float, int]]:
        sign = -1.0 if self.maximize else 1.0
        return lambda trial: (trial.state != "complete", sign * (trial.value or 0.0), trial.number)

    def front(self) -> list[Trial]:
        """Of several objectives: the complete trials that no other one dominates, in order of the first objective."""
        complete = {trial.number: trial.values for trial in self.ranked() if trial.values and trial.state == "complete"}
        return [self.trials[number] for number in front(complete, goals(self.configuration.search))]

    def status(self) -> dict[str, Any]:
        """The contract of `status --json`."""
        alive = self.alive
        trials = [self._summary(trial, alive) for trial in sorted(self.trials.values(), key=lambda trial: trial.number)]
        best = self.best()
        return {
            "sweep": self.name,
            "state": "interrupted" if self.state == "running" and not alive else self.state,
            "objective": watched(self.configuration.search).name,
            "direction": watched(self.configuration.search).direction,
            "objectives": [goal._asdict() for goal in goals(self.configuration.search)],
            "trials": trials,
            "best": self._summary(best, alive) if best else None,
            "front": [self._summary(trial, alive) for trial in self.front()],
            "notes": self.notes,
        }

    @staticmethod
    def _summary(trial: Trial, alive: bool) -> dict[str, Any]:
        state = "waiting" if trial.state == "running" and not alive else trial.state
        return {key: getattr(trial, key) for key in ("number", "value", "values", "epochs", "params", "settings")} | {
            "state": state
        }
