"""Test a trial's cost: monotonic, continued at a resume, including costs outside the trainer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from trials_run import records_of, specification

from orchestrator.core.context import TrialContext
from orchestrator.training import cost
from orchestrator.training._trainer import train
from orchestrator.training.cost import CPU_TOTAL, TOTAL, TrialCost

PLAIN = ("method.name=cross_entropy", "teacher=null", "training.epochs=4")


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return both clocks, which only the test advances."""
    clocks = SimpleNamespace(wall=100.0, cpu=10.0)
    monkeypatch.setattr(
        cost,
        "time",
        SimpleNamespace(perf_counter=lambda: clocks.wall, process_time=lambda: clocks.cpu),
    )
    return clocks


def test_cost_starts_at_creation(clocks: SimpleNamespace) -> None:
    counted = TrialCost()
    clocks.wall, clocks.cpu = 104.0, 13.0
    assert counted.metrics(TrialContext()) == {TOTAL: 4.0, CPU_TOTAL: 3.0}
    counted.add_cpu_seconds(2.0)
    assert counted.metrics(TrialContext()) == {TOTAL: 4.0, CPU_TOTAL: 5.0}


def test_resume_adds_the_reported_cost(clocks: SimpleNamespace) -> None:
    counted = TrialCost()
    counted.resume({TOTAL: 7.0, CPU_TOTAL: 6.0})
    clocks.wall, clocks.cpu = 101.0, 10.5
    assert counted.metrics(TrialContext()) == {TOTAL: 8.0, CPU_TOTAL: 6.5}


def test_records_hold_the_cost_of_the_trial_so_far(tmp_path: Path) -> None:
    spec = specification(tmp_path, "trial", *PLAIN)
    first = records_of(spec, dies_after=2)
    records: list[Any] = []
    train(spec.model_copy(update={"known": 2}), TrialContext(report=records.append))
    for name in (TOTAL, CPU_TOTAL):
        values = [record.metrics[name] for record in (*first, *records[1:])]
        assert len(values) == 4 and values[0] > 0 and values == sorted(values)
    parts = sum(record.metrics["seconds/epoch"] for record in (*first, *records[1:]))
    assert records[-1].metrics[TOTAL] >= 0.9 * parts
