"""Fixture that runs whole sweeps."""

from functools import partial
from pathlib import Path

import pytest

from tests.sweep_runs import RunSweep, run_small


@pytest.fixture
def run(tmp_path: Path) -> RunSweep:
    """Return a function that runs a small sweep or training in its own store."""
    return partial(run_small, tmp_path / "store")
