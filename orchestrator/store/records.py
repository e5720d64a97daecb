"""What a sweep leaves in the store: a file about it and one per trial, each replaced at every change.

The driver alone writes. `status` and a resume read them; the study holds the same values for the sampler. What is damaged is in
`Sweep.damaged` and left out, so that the rest can be read; whoever resumes the sweep sets it aside and makes it anew.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from orchestrator.config.objectives import goals, pareto_front, watched_metrics
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import apply
from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.store import run_lock
from orchestrator.store.record_file import STRICT, Count, DamagedRecordError, Finite, Plain, RecordSchema, Seconds, Timestamp
from orchestrator.store.store import Store, set_aside

TrialState = Literal["complete", "stopped_early", "failed", "running", "waiting"]
SweepState = Annotated[str, Field(pattern="^(running|finished|failed|interrupted)$")]
Kind = Annotated[str, Field(pattern="^(sweep|train)$")]
FILE, COPY = "sweep.json", "sweep.copy.json"  # the same twice, for damage to one of them
TRIAL_FILE = "trial.json"  # in the folder of a trial
Epoch = Annotated[int, Field(ge=0, le=10**7)]


class Change(TypedDict):
    """After `epoch` epochs the trial went on from the weights of the trial `source`, with `params`."""

    epoch: Epoch
    source: Count
    params: dict[str, Plain]


class Note(TypedDict):
    """What a person should know of a sweep, and since when; `pending` while it is about writes that MLflow does not have."""

    time: Timestamp
    text: str
    pending: NotRequired[bool]


@dataclass
class Trial:
    """One trial as the sweep knows it; `value` is the objective of its last epoch, `notes` what a person should hear of it.

    `values` is all objectives of its last epoch where there are several; `value` and `history` are of the first one then.
    `history` is the objective of each epoch, null where none was told: a worker may be ahead of a driver that died.
    `params` is what the study drew. `changes` is what the trial took over: after `epoch` epochs the weights of the trial
    `source`, to go on with `params`.
    """

    __pydantic_config__ = STRICT
    number: Count
    params: dict[str, Plain]
    state: TrialState = "waiting"
    value: Finite | None = None
    epochs: Epoch = 0
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[Finite | None] = field(default_factory=list)
    message: str = ""
    notes: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    values: list[Finite] | None = None

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


TRIAL = RecordSchema[Trial](Trial)


@dataclass
class SweepRecord:
    """The sweep's own file. `notes`: what a person should know of it.

    `described` is what it searched and trained on when it began, in words, for a resume to compare with.
    """

    __pydantic_config__ = STRICT
    configuration: Configuration
    kind: Kind
    state: SweepState = "running"
    started: Timestamp = field(default_factory=time.time)
    seconds: Seconds = 0.0
    notes: list[Note] = field(default_factory=list)
    described: dict[str, Plain] = field(default_factory=dict)


SWEEP = RecordSchema[SweepRecord](SweepRecord, number=4)


@dataclass
class Sweep(SweepRecord):
    """The sweep in a folder of the store, with all its trials. `damaged`: the files that cannot be used, each with the reason."""

    folder: Path = field(kw_only=True)
    trials: dict[int, Trial] = field(default_factory=dict)
    damaged: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def create(cls, folder: Path, configuration: Configuration, kind: str, described: dict[str, Any] | None = None) -> "Sweep":
        """A new sweep; ConfigurationError when the name is taken."""
        cls.require_new(folder)
        folder.mkdir(parents=True, exist_ok=True)  # who was killed right here left an empty one
        with run_lock.single_driver(folder):
            cls.require_new(folder)
            sweep = cls(configuration, kind, described=described or {}, folder=folder)
            sweep.save()
        return sweep

    @staticmethod
    def require_new(folder: Path, option: str = "") -> None:
        """ConfigurationError when there is a sweep in the folder; `option`: what a command needs to find the store."""
        if any((folder / name).exists() for name in (FILE, COPY)):
            raise ConfigurationError(
                f"--name {folder.name!r} exists already in this store: give another, or go on with "
                f"`python run.py sweep --resume {folder.name}{option}`",
                field="--name",
                value=folder.name,
                allowed="a new name",
            )

    @classmethod
    def open(cls, store: Store, name: str) -> "Sweep":
        """A sweep that stands in the store; ConfigurationError names those that do.

        What is damaged in it is in `damaged`; only without its own record there is no sweep.
        """
        folder = store.sweep(name)
        if not any((folder / name).exists() for name in (FILE, COPY)):
            names = store.sweeps()
            known = suggest_name(name, names) if names else "there is none yet"
            raise ConfigurationError(
                f"there is no sweep {name!r} in {store.root}: {known}", field="name", value=name, allowed=tuple(names)
            )
        record, damaged = own_record(folder)
        sweep = cls(**vars(record), folder=folder, damaged=damaged)
        for file in sorted(folder.glob(f"trials/*/{TRIAL_FILE}")):
            try:
                trial, sealed = TRIAL.read_sealed(file)
                sweep._require_consistent(file, trial, sealed)
                sweep.trials[trial.number] = trial
            except DamagedRecordError as error:
                sweep.damaged[file] = error.reason
        return sweep

    def _require_consistent(self, file: Path, trial: Trial, sealed: bool) -> None:
        """DamagedRecordError when the record of a trial contradicts its place, itself or the sweep."""
        objectives = len(self.configuration.search.objectives) or 1
        usable = trial.state in ("complete", "stopped_early")
        if file.parent != self.trial_folder(trial.number):
            key, reason = "number", f"number = {trial.number} is not allowed: it lies in the folder {file.parent.name}"
        elif len(trial.history) > trial.epochs:
            key, reason = "history", f"history has {len(trial.history)} epochs, and epochs = {trial.epochs}"
        elif trial.value is None and (trial.state == "complete" or trial.values):
            key, reason = "value", f"value = null is not allowed: state = {trial.state}"
        elif trial.values is not None and len(trial.values) != objectives:
            key, reason = "values", f"values has {len(trial.values)} numbers, and the sweep {objectives} objectives"
        else:
            key, reason = ("", "") if sealed or not usable else self._misfit(trial)
        if reason:
            raise DamagedRecordError(file, reason, key=key)

    def _misfit(self, trial: Trial) -> tuple[str, str]:
        """The key, and why the parameters cannot have been trained with, in a record that no checksum vouches for."""
        for name, params in (("params", trial.params), ("changes", trial.settings)):
            try:
                apply(self.configuration, params)
            except ConfigurationError as error:
                return name, f"{name}: {error}"
        return "", ""

    @property
    def name(self) -> str:
        """The name of the sweep, its study and its parent run."""
        return self.folder.name

    @property
    def alive(self) -> bool:
        """Whether a driver runs it, on whatever node: it holds the lock for its life, however it ends."""
        return self.state == "running" and run_lock.running(self.folder)

    @property
    def maximize(self) -> bool:
        """Whether a larger value is better."""
        return watched_metrics(self.configuration.search).direction == "maximize"

    def hold(self) -> AbstractContextManager[None]:
        """Be the one driver of this sweep; ConfigurationError says who else is."""
        return run_lock.hold_lock(self.folder)

    def save(self) -> None:
        """Write the sweep's own file, and its copy when that is done."""
        for name in (FILE, COPY):
            SWEEP.keep(self.folder / name, self._plain)

    def _plain(self) -> dict[str, Any]:
        own = {each.name: getattr(self, each.name) for each in fields(SweepRecord)}
        return own | {"configuration": self.configuration.plain()}

    def set_aside(self, file: Path) -> str:
        """Rename a damaged file of the sweep, so that it can be made anew; what was done, in a sentence."""
        reason, renamed = self.damaged.pop(file), set_aside(file)
        return f"{file.relative_to(self.folder)} is damaged ({reason}): it is kept as {renamed.name} and made anew"

    def trial_folder(self, number: int) -> Path:
        """Where a trial keeps its record and its checkpoint."""
        return self.folder / "trials" / f"{number:05d}"

    def trial_file(self, number: int) -> Path:
        """The record of a trial."""
        return self.trial_folder(number) / TRIAL_FILE

    def save_trial(self, trial: Trial) -> None:
        """Write one trial's file; while it goes on, the study and the checkpoint know as much."""
        self.trials[trial.number] = trial
        TRIAL.keep(self.trial_file(trial.number), asdict(trial), lasting=trial.ended)

    def saved(self, trial: Trial) -> bool:
        """Whether the trial's file says what is known of it."""
        try:
            return TRIAL.read(self.trial_file(trial.number)) == trial
        except DamagedRecordError:
            return False

    def ranked(self) -> list[Trial]:
        """Trials that can be used, the best first: those that trained all their epochs, then those that were stopped early."""
        return sorted(self._usable(), key=self._rank())

    def best(self) -> Trial | None:
        """The best trial; one that was stopped early only where none is complete: values of fewer epochs are another thing.

        Asked for at every end of a trial, so it sorts nothing.
        """
        return min(self._usable(), key=self._rank(), default=None)

    def stopped_ahead(self) -> Trial | None:
        """Return the stopped trial with the best value of those that are ahead of the best complete trial; None without one."""
        best, sign = self.best(), -1.0 if self.maximize else 1.0
        if best is None or best.state != "complete":
            return None
        ahead = [
            trial
            for trial in self._usable()
            if trial.state != "complete" and sign * (trial.value or 0.0) < sign * (best.value or 0.0)
        ]
        return min(ahead, key=self._rank(), default=None)

    def _usable(self) -> list[Trial]:
        return [trial for trial in self.trials.values() if trial.value is not None and trial.state in ("complete", "stopped_early")]

    def _rank(self) -> Callable[[Trial], tuple[bool, float, int]]:
        sign = -1.0 if self.maximize else 1.0
        return lambda trial: (trial.state != "complete", sign * (trial.value or 0.0), trial.number)

    def front(self) -> list[Trial]:
        """Of several objectives: the complete trials that no other one dominates, in order of the first objective."""
        complete = {trial.number: trial.values for trial in self.ranked() if trial.values and trial.state == "complete"}
        return [self.trials[number] for number in pareto_front(complete, goals(self.configuration.search))]

    def status(self) -> dict[str, Any]:
        """The contract of `status --json`."""
        alive = self.alive
        trials = [self._summary(trial, alive) for trial in sorted(self.trials.values(), key=lambda trial: trial.number)]
        best = self.best()
        return {
            "sweep": self.name,
            "state": "interrupted" if self.state == "running" and not alive else self.state,
            "objective": watched_metrics(self.configuration.search).name,
            "direction": watched_metrics(self.configuration.search).direction,
            "objectives": [goal._asdict() for goal in goals(self.configuration.search)],
            "trials": trials,
            "best": self._summary(best, alive) if best else None,
            "front": [self._summary(trial, alive) for trial in self.front()],
            "notes": self.notes + [{"time": time.time(), "text": text} for text in self.damage()],
        }

    def damage(self, option: str = "") -> list[str]:
        """What is damaged, a sentence for each file with the next step; `option`: what a command needs to find the store."""
        again = f"`python run.py sweep --resume {self.name}{option}` makes it anew"
        return [f"{file.relative_to(self.folder)} is damaged: {reason}: {again}" for file, reason in self.damaged.items()]

    @staticmethod
    def _summary(trial: Trial, alive: bool) -> dict[str, Any]:
        state = "waiting" if trial.state == "running" and not alive else trial.state
        return {key: getattr(trial, key) for key in ("number", "value", "values", "epochs", "params", "settings")} | {
            "state": state
        }


def own_record(folder: Path) -> tuple[SweepRecord, dict[Path, str]]:
    """The sweep's own record, or its copy, and which of them cannot be used; ConfigurationError when neither can."""
    damaged: dict[Path, str] = {}
    found: SweepRecord | None = None
    for file in (folder / FILE, folder / COPY):
        try:
            found = found or SWEEP.read(file)
        except DamagedRecordError as error:
            damaged[file] = error.reason
    if found is None:
        reasons = " and ".join(f"{file.name}: {reason}" for file, reason in damaged.items())
        raise ConfigurationError(
            f"the record of the sweep in {folder} and its copy are damaged ({reasons}): put one of them back from a backup, or "
            "give another --name",
            field=str(folder / FILE),
            value={file.name: reason for file, reason in damaged.items()},
        )
    return found, {file: reason for file, reason in damaged.items() if file.exists()}
