"""What a sweep leaves in the store: a file about it and one per trial, each replaced at every change.

The driver alone writes. `status` and a resume read them; the study holds the same values for the sampler.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator import owner
from orchestrator.config import Configuration
from orchestrator.errors import ConfigurationError, nearest
from orchestrator.objectives import front, goals, watched
from orchestrator.reading import build
from orchestrator.store import Store, keep_json, read_json

TrialState = Literal["complete", "stopped_early", "failed", "running", "waiting"]
FORMAT = 2  # raised when an older version would not understand what is written
FILE, COPY = "sweep.json", "sweep.copy.json"  # the same twice, for damage to one of them


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

    def hear(self, record: dict[str, Any], names: Sequence[str]) -> bool:
        """Take an epoch's record, `names` being the objectives; whether all of these are finite, so that the epoch counts."""
        epoch, metrics = record["epoch"], record["metrics"]
        self.epochs, self.metrics = epoch, {**self.metrics, **metrics}
        self.notes = [*self.notes, *record.get("notes", [])]
        values = [metrics.get(name, math.nan) for name in names]
        if not all(map(math.isfinite, values)):
            return False
        self.value = values[0]
        self.values = values if len(values) > 1 else None
        self.history = [*self.history, *[None] * (epoch - 1 - len(self.history)), self.value]
        return True

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
    """The sweep in a folder of the store, with all its trials. `notes`: what a person should know of it, `time` (s) and `text`.

    `described` is what it searched and trained on when it began, in words, for a resume to compare with. `damaged` are the
    numbers of trials whose record cannot be read.
    """

    folder: Path
    configuration: Configuration
    kind: str
    state: str = "running"
    started: float = field(default_factory=time.time)
    seconds: float = 0.0
    notes: list[dict[str, Any]] = field(default_factory=list)
    described: dict[str, Any] = field(default_factory=dict)
    trials: dict[int, Trial] = field(default_factory=dict)
    damaged: list[int] = field(default_factory=list)

    @classmethod
    def create(cls, folder: Path, configuration: Configuration, kind: str, described: dict[str, Any] | None = None) -> "Sweep":
        """A new sweep; ConfigurationError when the name is taken."""
        cls.require_new(folder)
        folder.mkdir(parents=True, exist_ok=True)  # who was killed right here left an empty one
        with owner.only_one(folder):
            cls.require_new(folder)
            sweep = cls(folder, configuration, kind, described=described or {})
            sweep.save()
        return sweep

    @staticmethod
    def require_new(folder: Path, option: str = "") -> None:
        """ConfigurationError when there is a sweep in the folder; `option`: what a command needs to find the store."""
        if any((folder / name).exists() for name in (FILE, COPY)):
            raise ConfigurationError(
                f"--name {folder.name!r} exists already in this store: give another, or go on with "
                f"`python run.py sweep --resume {folder.name}{option}`"
            )

    @classmethod
    def open(cls, store: Store, name: str) -> "Sweep":
        """A sweep that stands in the store; ConfigurationError names those that do."""
        folder = store.sweep(name)
        if not any((folder / name).exists() for name in (FILE, COPY)):
            names = store.sweeps()
            known = nearest(name, names) if names else "there is none yet"
            raise ConfigurationError(f"there is no sweep {name!r} in {store.root}: {known}")
        values = _own_file(folder)
        try:
            sweep = cls(folder, build(values.pop("configuration")), **values)
        except (LookupError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"{folder / FILE} is no record of a sweep ({error}): put it back from a backup") from error
        for file in sorted(folder.glob("trials/*/trial.json")):
            try:
                trial = Trial(**read_json(file))
                sweep.trials[trial.number] = trial
            except (ConfigurationError, TypeError):
                sweep.damaged += [int(file.parent.name)] if file.parent.name.isdecimal() else []
        return sweep

    @property
    def name(self) -> str:
        """The name of the sweep, its study and its parent run."""
        return self.folder.name

    @property
    def alive(self) -> bool:
        """Whether a driver runs it, on whatever node: it holds the lock for its life, however it ends."""
        return self.state == "running" and owner.running(self.folder)

    @property
    def maximize(self) -> bool:
        """Whether a larger value is better."""
        return watched(self.configuration.search).direction == "maximize"

    def hold(self) -> AbstractContextManager[None]:
        """Be the one driver of this sweep; ConfigurationError says who else is."""
        return owner.held(self.folder)

    def save(self) -> None:
        """Write the sweep's own file, and its copy when that is done."""
        for name in (FILE, COPY):
            keep_json(self.folder / name, self._plain)

    def _plain(self) -> dict[str, Any]:
        own = {key: value for key, value in vars(self).items() if key not in ("folder", "trials", "damaged", "configuration")}
        return {"format": FORMAT, **own, "configuration": self.configuration.plain()}

    def trial_folder(self, number: int) -> Path:
        """Where a trial keeps its record and its checkpoint."""
        return self.folder / "trials" / f"{number:05d}"

    def save_trial(self, trial: Trial) -> None:
        """Write one trial's file; while it goes on, the study and the checkpoint know as much."""
        self.trials[trial.number] = trial
        keep_json(self.trial_folder(trial.number) / "trial.json", asdict(trial), lasting=trial.ended)

    def saved(self, trial: Trial) -> bool:
        """Whether the trial's file says what is known of it."""
        try:
            return bool(read_json(self.trial_folder(trial.number) / "trial.json") == asdict(trial))
        except ConfigurationError:
            return False

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
            "notes": self.notes + [{"time": time.time(), "text": text} for text in self._damage()],
        }

    def _damage(self) -> list[str]:
        again = f"`sweep --resume {self.name}` makes it anew of the study and the checkpoint"
        return [f"the record of trial {number} is damaged: {again}" for number in self.damaged]

    @staticmethod
    def _summary(trial: Trial, alive: bool) -> dict[str, Any]:
        state = "waiting" if trial.state == "running" and not alive else trial.state
        return {key: getattr(trial, key) for key in ("number", "value", "values", "epochs", "params", "settings")} | {
            "state": state
        }


def _own_file(folder: Path) -> dict[str, Any]:
    """The sweep's own file, or its copy; ConfigurationError when neither can be read, or a newer version wrote them."""
    found: dict[str, Any] | None = None
    for name in (FILE, COPY):
        try:
            values = read_json(folder / name)
            if isinstance(values, dict) and isinstance(values.get("format"), int):
                found = values
                break
        except ConfigurationError:
            continue
    if found is None:
        raise ConfigurationError(
            f"{folder / FILE} and its copy {COPY} are damaged: put one of them back from a backup, or give another --name"
        )
    if found.pop("format") > FORMAT:
        raise ConfigurationError(f"{folder} was written by a newer version of this program: update it to read the sweep")
    return found
