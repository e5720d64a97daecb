"""Test the two workers that `doctor` starts: failures and timeouts."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cluster import smoke_test
from orchestrator.core.errors import PreflightError
from tests.refusal import refused


def test_workers_that_fail_or_hang_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(smoke_test, "POLL_S", 0.01)
    monkeypatch.setattr(smoke_test, "_trainer", lambda folder: SimpleNamespace(fit=never.wait))
    with refused("workers", None, "a response within 0.02 s", PreflightError):
        smoke_test.run_two_workers(tmp_path, 0.02)
    never.set()

    def fail() -> None:
        raise RuntimeError("a worker\nis gone")

    monkeypatch.setattr(smoke_test, "_trainer", lambda folder: SimpleNamespace(fit=fail))
    with refused("workers", "a worker is gone", None, PreflightError):
        smoke_test.run_two_workers(tmp_path, 60)
