"""Run whole sweeps on digits that take seconds once Ray runs, and record what they display."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep.driver import run_sweep
from orchestrator.sweep.preflight.preflight import Prepared, prepare_run

SMALL = (
    "data.name=digits",
    "teacher.network.width=32",
    "teacher.training.epochs=2",
    "training.epochs=9",
    "search.grace_epochs=1",
    "project=tests",
)


# a dispatcher client, and a function that returns the number of concurrent trials
SharedGroups = tuple[Any, Callable[[], int]]


@dataclass
class Watch:
    """Callback that records the displayed events; `on_report` may act during the sweep."""

    on_report: Callable[[Trial, int], None] = lambda trial, epoch: None
    steps: list[str] = field(default_factory=list)
    ended: list[tuple[int, str]] = field(default_factory=list)
    changed: list[int] = field(default_factory=list)
    started: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def preparing(self, what: str) -> None:
        self.steps.append(what)

    def teacher_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        self.steps.append(f"teacher {epoch}")

    def teacher_ready(self, words: str) -> None:
        self.steps.append(words)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def trial_started(self, trial: Trial) -> None:
        self.started.append(trial.number)

    def trial_reported(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        self.on_report(trial, epoch)

    def trial_changed(self, trial: Trial) -> None:
        self.changed.append(trial.number)

    def trial_ended(self, trial: Trial) -> None:
        self.ended.append((trial.number, trial.state))


RunSweep = Callable[..., Sweep]


def prepare_here(store: Store, configuration: Configuration, kind: str, local: int) -> Prepared:
    """Check a run as one that starts its own Ray, even while a shared instance runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        return prepare_run(store, configuration, kind, local)


def run_small(
    root: Path,
    *pairs: str,
    kind: str = "sweep",
    name: str = "sweep",
    watch: Watch | None = None,
    shared_groups: Callable[[Configuration], SharedGroups] | None = None,
    local: int = 0,
    **options: Any,
) -> Sweep:
    """Run a small sweep or training in the store at `root`, and read its record."""
    store = Store.open(root)
    prepared = prepare_here(store, load(None, [*SMALL, *pairs]), kind, local)
    if shared_groups and not local:
        options["shared_groups"] = shared_groups(prepared.configuration)
    sweep = Sweep.create(store.sweep(name), prepared.configuration, kind)
    show = watch or Watch()
    run_sweep(sweep, store, prepared.data, prepared.teacher_access, show, local, **options)
    return Sweep.open(store, name)


def student_trace(sweep: Sweep, number: int, letter: str) -> dict[str, torch.Tensor]:
    """Return the trace of a student over all epochs."""
    return load_file(
        sweep.trial_folder(number)
        / "checkpoint"
        / ("." if letter == "a" else letter)
        / "trace.safetensors"
    )
