"""Compute the progress of a comparison from the records of its sweeps."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.core.errors import ConfigurationError
from orchestrator.store import run_lock
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep.comparison.record import OVER_SEEDS, Comparison, StudyRun

WAITING, RUNNING = "waiting", "running"
ENDED = ("finished", "failed")


@dataclass(frozen=True)
class Part:
    """One sweep of a comparison.

    Attributes:
        sweep: Its name.
        purpose: The method that it searches, or "seeds".
        state: waiting, running, interrupted, finished, failed, or "not readable".
        trials: Number of planned trials.
        ended: Number of ended trials, failed ones included.
        failed: Number of failed trials.
        epochs: Number of trained epochs.
        seconds: Seconds for which it has run.
    """

    sweep: str
    purpose: str
    state: str
    trials: int
    ended: int = 0
    failed: int = 0
    epochs: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Progress:
    """Progress of a comparison.

    Attributes:
        comparison: Its name.
        state: running, interrupted, finished or failed.
        methods: The compared methods.
        studies: Number of studies.
        seeds: Trainings of each method in a study.
        parts: Its sweeps, in the order in which they run.
        chosen: What the searches have chosen, by their part of the comparison.
        left_s: Estimated seconds to the end; None if unknown or not running.
    """

    comparison: str
    state: str
    methods: tuple[str, ...]
    studies: int
    seeds: int
    parts: tuple[Part, ...]
    chosen: dict[str, Any]
    left_s: float | None

    @property
    def trials(self) -> int:
        """Return the number of planned trials of all sweeps."""
        return sum(part.trials for part in self.parts)

    @property
    def ended(self) -> int:
        """Return the number of ended trials of all sweeps."""
        return sum(part.ended for part in self.parts)

    @property
    def failed(self) -> int:
        """Return the number of failed trials of all sweeps."""
        return sum(part.failed for part in self.parts)

    @property
    def running(self) -> str:
        """Return the name of the running sweep; empty between two sweeps."""
        return next((part.sweep for part in self.parts if part.state == RUNNING), "")

    def plain(self) -> dict[str, Any]:
        """Return the content of `status --json`, whose keys are a public interface."""
        counts = {"trials": self.trials, "ended": self.ended, "failed": self.failed}
        end = None if self.left_s is None else time.time() + self.left_s
        return asdict(self) | counts | {"expected_end": end}


def read_progress(store: Store, comparison: Comparison) -> Progress:
    """Return the progress of a comparison.

    Without a live driver a comparison that has not ended is `interrupted`. It has failed if no
    search of a study found settings, or if a sweep over seeds has no result.
    """
    driver, names = run_lock.driver_status(comparison.folder), set(store.sweeps())
    alive = driver is not None and driver.alive
    parts = tuple(
        _read_part(store, study, purpose, names)
        for study in comparison.runs
        for purpose in (*comparison.searched, OVER_SEEDS)
    )
    last = [part.state for part in parts if part.purpose == OVER_SEEDS]
    if any(study.chosen and not study.settings for study in comparison.runs) and not alive:
        state = "failed"
    elif all(each in ENDED for each in last) and not alive:
        state = "failed" if "failed" in last else "finished"
    else:
        state = RUNNING if alive else "interrupted"
    return Progress(
        comparison.name,
        state,
        comparison.methods,
        comparison.studies,
        comparison.seeds,
        parts,
        dict(comparison.chosen),
        estimate_left_s(parts, comparison.configuration.training.epochs) if alive else None,
    )


def estimate_left_s(parts: Sequence[Part], epochs: int) -> float | None:
    """Return the expected seconds to the end; None before the first epoch.

    It is the number of remaining epochs times the mean seconds of an epoch so far. A search stops
    trials early: its remaining trials train as many epochs as the ended searches' trials on
    average.

    Args:
        parts: The sweeps of the comparison.
        epochs: Epochs of a training over seeds.
    """
    trained, seconds = sum(part.epochs for part in parts), sum(part.seconds for part in parts)
    if not trained:
        return None
    ended = [part for part in parts if part.purpose != OVER_SEEDS and part.state in ENDED]
    searched, search_epochs = sum(part.ended for part in ended), sum(part.epochs for part in ended)
    each = search_epochs / searched if searched else epochs
    left = sum(
        max(part.trials * (epochs if part.purpose == OVER_SEEDS else each) - part.epochs, 0.0)
        for part in parts
        if part.state not in ENDED
    )
    return left * seconds / trained


def _read_part(store: Store, study: StudyRun, purpose: str, names: set[str]) -> Part:
    """Return the progress of one sweep, which may not exist yet."""
    name, comparison = study.search(purpose), study.comparison
    trials = (
        len(comparison.methods) * comparison.seeds
        if purpose == OVER_SEEDS
        else comparison.configuration.search.trials
    )
    if name not in names:
        return Part(name, purpose, WAITING, trials)
    try:
        sweep = Sweep.open(store, name)
    except ConfigurationError:
        return Part(name, purpose, "not readable", trials)
    driver = run_lock.driver_status(sweep.folder)
    alive = driver is not None and driver.alive
    own = list(sweep.trials.values())
    return Part(
        name,
        purpose,
        "interrupted" if sweep.state == RUNNING and not alive else sweep.state,
        sweep.num_trials,
        sweep.count_ended(),
        sum(trial.state == "failed" for trial in own),
        sum(trial.epochs for trial in own),
        sweep.seconds + (driver.seconds if driver and sweep.state == RUNNING else 0.0),
    )
