"""Fixtures of whole sweeps: a sweep on digits that takes seconds once Ray runs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.loader import load
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep.driver import run_sweep
from orchestrator.sweep.preflight.preflight import prepare_run

SMALL = (
    "data.name=digits",
    "teacher.network.width=32",
    "teacher.training.epochs=2",
    "training.epochs=9",
    "search.grace_epochs=1",
    "project=tests",
)


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


Conduct = Callable[..., Sweep]


@pytest.fixture
def run(tmp_path: Path) -> Conduct:
    """Return a function that runs a sweep or training in its own store, and reads its record."""

    def start(
        *pairs: str,
        kind: str = "sweep",
        name: str = "sweep",
        watch: Watch | None = None,
        **options: Any,
    ) -> Sweep:
        store = Store.open(tmp_path / "store")
        configuration = load(None, [*SMALL, *pairs])
        prepared = prepare_run(store, configuration, kind, local=options.get("local", False))
        sweep = Sweep.create(store.sweep(name), prepared.configuration, kind)
        run_sweep(sweep, store, prepared.data, prepared.teacher_access, watch or Watch(), **options)
        return Sweep.open(store, name)

    return start
