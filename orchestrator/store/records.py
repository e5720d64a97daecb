"""Define the records of a sweep: one file for the sweep and one for each trial.

Only the driver writes them, and replaces a file at every change. `status` and a resume read them;
the study holds the same values for the sampler. Damaged files are listed in `Sweep.damaged` and
skipped. A resume sets them aside and creates them again.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from orchestrator.config.objectives import Goal, goals, pareto_front, user_directions
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import Parameters, apply
from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.core.program import program_name
from orchestrator.core.reports import EpochRecord
from orchestrator.store import run_lock
from orchestrator.store.record_file import (
    STRICT,
    Count,
    DamagedRecordError,
    Finite,
    Plain,
    RecordSchema,
    Seconds,
    Timestamp,
)
from orchestrator.store.store import Store, set_aside

TrialState = Literal["complete", "stopped_early", "failed", "running", "waiting"]
SweepState = Annotated[str, Field(pattern="^(running|finished|failed|interrupted)$")]
Kind = Annotated[str, Field(pattern="^(sweep|train)$")]
FILE, COPY = "sweep.json", "sweep.copy.json"  # the copy protects against damage to one of them
TRIAL_FILE = "trial.json"  # in the folder of a trial
DIRECTIONS = "directions"  # in `SweepRecord.described`: those of metrics of user code
Epoch = Annotated[int, Field(ge=0, le=10**7)]


class Change(TypedDict):
    """Weight transfer: after `epoch` epochs the trial continued from trial `source`."""

    epoch: Epoch
    source: Count
    params: dict[str, Plain]


class Note(TypedDict):
    """Message for the user; `pending` marks one about writes that MLflow does not have yet."""

    time: Timestamp
    text: str
    pending: NotRequired[bool]


@dataclass
class Trial:
    """Record of one trial.

    Attributes:
        params: The parameters that the study drew.
        value: The objective of the last epoch; the first objective if there are several.
        history: `value` of each epoch, null where none was reported. A worker may have been ahead
            of a driver that died.
        message: The reason of a failure.
        notes: Messages for the user.
        changes: Weight transfers from other trials, each with the parameters used from then on.
        values: All objectives of the last epoch, if there are several.
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

    def apply_report(self, record: EpochRecord, names: Sequence[str]) -> bool:
        """Apply an epoch's report; return whether all objectives are finite, so that it counts.

        `names` are the metrics that are objectives.
        """
        epoch = self.epochs = record.epoch
        self.metrics = {**self.metrics, **record.metrics}
        self.notes = [*self.notes, *record.notes]
        values = [record.metrics.get(name, math.nan) for name in names]
        if not all(map(math.isfinite, values)):
            return False
        self.value = values[0]
        self.values = values if len(values) > 1 else None
        self.history = [*self.history, *[None] * (epoch - 1 - len(self.history)), self.value]
        return True

    @property
    def known(self) -> list[tuple[int, float]]:
        """Return the epochs with a known objective, each with its value."""
        return [
            (epoch, value) for epoch, value in enumerate(self.history, start=1) if value is not None
        ]

    @property
    def settings(self) -> Parameters:
        """Return the current parameters: those of the last change, or of the study."""
        return dict(self.changes[-1]["params"]) if self.changes else self.params

    @property
    def taken_over(self) -> str:
        """Return the sources and epochs of all weight transfers, empty without any."""
        pairs = ", ".join(
            f"trial {change['source']} after epoch {change['epoch']}" for change in self.changes
        )
        return f"copied the weights of {pairs}" if pairs else ""

    @property
    def remarks(self) -> str:
        """Return the failure message, the weight transfers and the notes in one line."""
        return "; ".join(text for text in (self.message, self.taken_over, *self.notes) if text)

    @property
    def ended(self) -> bool:
        """Return whether the trial is complete, stopped early or failed."""
        return self.state in ("complete", "stopped_early", "failed")


TRIAL = RecordSchema[Trial](Trial)


@dataclass
class SweepRecord:
    """Record of the sweep itself.

    Attributes:
        notes: Messages for the user.
        described: Search space and data at the first start, in words. A resume compares with it.
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
    """Sweep in a folder of the store, with all its trials.

    `damaged` maps each file that cannot be used to the reason.
    """

    folder: Path = field(kw_only=True)
    trials: dict[int, Trial] = field(default_factory=dict)
    damaged: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        folder: Path,
        configuration: Configuration,
        kind: str,
        described: dict[str, Any] | None = None,
    ) -> "Sweep":
        """Create a sweep. Raise ConfigurationError if the name is taken."""
        cls.require_new(folder)
        # a process killed at this point left an empty folder
        folder.mkdir(parents=True, exist_ok=True)
        with run_lock.single_driver(folder):
            cls.require_new(folder)
            directions = user_directions(configuration.search)
            described = (described or {}) | ({DIRECTIONS: directions} if directions else {})
            sweep = cls(configuration, kind, described=described, folder=folder)
            sweep.save()
        return sweep

    @staticmethod
    def require_new(folder: Path, option: str = "") -> None:
        """Raise ConfigurationError if the folder holds a sweep.

        `option` is the command-line option that selects the store.
        """
        if any((folder / name).exists() for name in (FILE, COPY)):
            raise ConfigurationError(
                f"--name {folder.name!r} already exists in this store: give another name, or "
                f"continue it with `{program_name()} sweep --resume {folder.name}{option}`"
            ).with_details("--name", folder.name, "a new name")

    @classmethod
    def open(cls, store: Store, name: str) -> "Sweep":
        """Open a sweep of the store, with its damaged files in `damaged`.

        Raises:
            ConfigurationError: The sweep does not exist, or its own record and the copy are
                damaged. For an unknown name, the error names existing sweeps.
        """
        folder = store.sweep(name)
        if not any((folder / name).exists() for name in (FILE, COPY)):
            names = store.sweeps()
            known = suggest_name(name, names) if names else "the store has no sweeps yet"
            raise ConfigurationError(
                f"there is no sweep {name!r} in {store.root}: {known}"
            ).with_details("name", name, tuple(names))
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
        """Raise DamagedRecordError if a record contradicts its folder, itself or the sweep."""
        objectives = len(self.configuration.search.objectives) or 1
        usable = trial.state in ("complete", "stopped_early")
        if file.parent != self.trial_folder(trial.number):
            key = "number"
            reason = f"number = {trial.number} is not allowed in the folder {file.parent.name}"
        elif len(trial.history) > trial.epochs:
            key = "history"
            reason = f"history has {len(trial.history)} epochs, but epochs = {trial.epochs}"
        elif trial.value is None and (trial.state == "complete" or trial.values):
            key, reason = "value", f"value = null is not allowed with state = {trial.state}"
        elif trial.values is not None and len(trial.values) != objectives:
            key = "values"
            reason = (
                f"values has {len(trial.values)} numbers, but the sweep has {objectives} objectives"
            )
        else:
            key, reason = ("", "") if sealed or not usable else self._misfit(trial)
        if reason:
            raise DamagedRecordError(file, reason, key=key)

    def _misfit(self, trial: Trial) -> tuple[str, str]:
        """Return the key and the reason if the parameters cannot have been used for training.

        Only records without a checksum need this check.
        """
        for name, params in (("params", trial.params), ("changes", trial.settings)):
            try:
                apply(self.configuration, params)
            except ConfigurationError as error:
                return name, f"{name}: {error}"
        return "", ""

    @property
    def name(self) -> str:
        """Return the name of the sweep, its study and its parent run."""
        return self.folder.name

    @property
    def alive(self) -> bool:
        """Return whether a driver on any node holds the lock, which ends with its process."""
        return self.state == "running" and run_lock.is_running(self.folder)

    @property
    def goals(self) -> tuple[Goal, ...]:
        """Return the objectives; user code that defines a metric need not be loaded."""
        return goals(self.configuration.search, self.described.get(DIRECTIONS))

    @property
    def maximize(self) -> bool:
        """Return whether a larger value is better."""
        return self.goals[0].direction == "maximize"

    def hold(self) -> AbstractContextManager[None]:
        """Hold the lock of the driver. Raise ConfigurationError if another process holds it."""
        return run_lock.hold_lock(self.folder)

    def save(self) -> None:
        """Write the sweep's own file, then its copy."""
        for name in (FILE, COPY):
            SWEEP.keep(self.folder / name, self._plain)

    def text(self) -> str:
        """Return the content of the sweep's own file."""
        return SWEEP.text(self._plain())

    def _plain(self) -> dict[str, Any]:
        own = {each.name: getattr(self, each.name) for each in fields(SweepRecord)}
        return own | {"configuration": self.configuration.plain()}

    def set_aside(self, file: Path) -> str:
        """Rename a damaged file, so that it can be created again; return a sentence about it."""
        reason, renamed = self.damaged.pop(file), set_aside(file)
        return (
            f"{file.relative_to(self.folder)} is damaged ({reason}): it was renamed to "
            f"{renamed.name} and is written again"
        )

    def trial_folder(self, number: int) -> Path:
        """Return the folder of a trial, with its record and its checkpoint."""
        return self.folder / "trials" / f"{number:05d}"

    def trial_file(self, number: int) -> Path:
        """Return the file of a trial's record."""
        return self.trial_folder(number) / TRIAL_FILE

    def save_trial(self, trial: Trial) -> None:
        """Write the record of one trial.

        Only the record of an ended trial must survive a power failure: until then, the study and
        the checkpoint hold the same facts.
        """
        self.trials[trial.number] = trial
        TRIAL.keep(self.trial_file(trial.number), vars(trial), lasting=trial.ended)

    def saved(self, trial: Trial) -> bool:
        """Return whether the file of the trial matches its record in memory."""
        try:
            return TRIAL.read(self.trial_file(trial.number)) == trial
        except DamagedRecordError:
            return False

    @property
    def num_trials(self) -> int:
        """Number of trials of the whole run: 1 for a training."""
        return 1 if self.kind == "train" else self.configuration.search.trials

    def count_ended(self) -> int:
        """Return the number of trials that have ended; may be called from any thread."""
        return sum(trial.ended for trial in list(self.trials.values()))

    def ranked(self) -> list[Trial]:
        """Return the usable trials, best first.

        Complete trials precede those that were stopped early.
        """
        return sorted(self._usable(), key=self._rank())

    def best(self) -> Trial | None:
        """Return the best trial.

        A trial that was stopped early is returned only if none is complete: values after fewer
        epochs are not comparable. Every end of a trial calls this method, so it does not sort.
        """
        return min(self._usable(), key=self._rank(), default=None)

    def stopped_ahead(self) -> Trial | None:
        """Return the best stopped trial that is ahead of the best complete one, or None."""
        best, sign = self.best(), -1.0 if self.maximize else 1.0
        if best is None or best.state != "complete":
            return None
        ahead = [
            trial
            for trial in self._usable()
            if trial.state != "complete"
            and sign * (trial.value or 0.0) < sign * (best.value or 0.0)
        ]
        return min(ahead, key=self._rank(), default=None)

    def _usable(self) -> list[Trial]:
        return [
            trial
            for trial in list(self.trials.values())  # other threads call this
            if trial.value is not None and trial.state in ("complete", "stopped_early")
        ]

    def _rank(self) -> Callable[[Trial], tuple[bool, float, int]]:
        sign = -1.0 if self.maximize else 1.0
        return lambda trial: (trial.state != "complete", sign * (trial.value or 0.0), trial.number)

    def front(self) -> list[Trial]:
        """Return the Pareto front: the complete trials that no other one dominates.

        The order is that of the first objective. The list is empty for a single objective.
        """
        complete = {
            trial.number: trial.values
            for trial in self.ranked()
            if trial.values and trial.state == "complete"
        }
        return [self.trials[number] for number in pareto_front(complete, self.goals)]

    def status(self) -> dict[str, Any]:
        """Return the content of `status --json`, whose keys are a public interface."""
        alive = self.alive
        trials = [
            self._summary(trial, alive)
            for trial in sorted(self.trials.values(), key=lambda trial: trial.number)
        ]
        best = self.best()
        return {
            "sweep": self.name,
            "state": "interrupted" if self.state == "running" and not alive else self.state,
            "objective": self.goals[0].name,
            "direction": self.goals[0].direction,
            "objectives": [goal._asdict() for goal in self.goals],
            "trials": trials,
            "best": self._summary(best, alive) if best else None,
            "front": [self._summary(trial, alive) for trial in self.front()],
            "notes": self.notes + [{"time": time.time(), "text": text} for text in self.damage()],
        }

    def damage(self, option: str = "") -> list[str]:
        """Return a sentence for each damaged file, with the next step.

        `option` is the command-line option that selects the store.
        """
        again = f"`{program_name()} sweep --resume {self.name}{option}` writes it again"
        return [
            f"{file.relative_to(self.folder)} is damaged: {reason}: {again}"
            for file, reason in self.damaged.items()
        ]

    @staticmethod
    def _summary(trial: Trial, alive: bool) -> dict[str, Any]:
        state = "waiting" if trial.state == "running" and not alive else trial.state
        return {
            key: getattr(trial, key)
            for key in ("number", "value", "values", "epochs", "params", "settings")
        } | {"state": state}


def own_record(folder: Path) -> tuple[SweepRecord, dict[Path, str]]:
    """Return the sweep's own record or its copy, and the reason for each damaged file of the two.

    Raises:
        ConfigurationError: The record and its copy are both damaged.
    """
    damaged: dict[Path, str] = {}
    record: SweepRecord | None = None
    for file in (folder / FILE, folder / COPY):
        try:
            record = record or SWEEP.read(file)
        except DamagedRecordError as error:
            damaged[file] = error.reason
    if record is None:
        reasons = " and ".join(f"{file.name}: {reason}" for file, reason in damaged.items())
        raise ConfigurationError(
            f"the record of the sweep in {folder} and its copy are damaged ({reasons}): restore "
            f"one of them from a backup, or give another --name"
        ).with_details(str(folder / FILE), {file.name: reason for file, reason in damaged.items()})
    return record, {file: reason for file, reason in damaged.items() if file.exists()}
