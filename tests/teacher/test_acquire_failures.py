"""Test the messages on a teacher whose fitting failed."""

from pathlib import Path

import pytest

from orchestrator.config.loader import load
from orchestrator.config.trial import TrialSpec
from orchestrator.core.reports import Report, TrialFailure
from orchestrator.data.prepare import prepare
from orchestrator.store.store import Store
from orchestrator.teacher.acquire import acquire_teacher
from tests.refusal import refused


class Failing:
    """Dispatcher whose every trial fails with one message."""

    def __init__(self, message: str) -> None:
        self.message = message

    def submit(self, spec: TrialSpec) -> None:
        """Accept any trial."""

    def next_report(self, trial: str, heartbeat_timeout_s: float) -> Report:
        """Return the failure."""
        return TrialFailure(self.message)

    def stop(self, trial: str) -> None:
        """Stop nothing."""


@pytest.mark.parametrize(
    ("message", "advised"),
    [
        ("the loss is nan", True),
        ("lower teacher.training.batch_size", False),
        ("transform my/shift (mine.py:3) fails (ValueError: x)", False),
    ],
)
def test_only_a_failure_without_a_named_cause_is_answered_by_advice_on_the_teacher(
    tmp_path: Path, message: str, advised: bool
) -> None:
    store, configuration = Store.open(tmp_path / "store"), load(None, [])
    data = prepare(configuration.data, store.root, 0)
    with refused("teacher", message) as caught:
        acquire_teacher(store, configuration, data, Failing(message), lambda *_: None)
    assert ("change teacher.training" in str(caught.value)) == advised
