"""Provide a store with one trained run, and copies of it."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import run
from orchestrator.store.store import FORMAT_FILE, Store

SETTINGS = (
    "training.epochs=3",
    "teacher.training.epochs=1",
    "data.limit.train=400",
    "student.name=cnn",
    "student.width=4",
    "method.temperature=3",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with the training `mine`, of KD on digits; tests only read or copy it."""
    store = tmp_path_factory.mktemp("trained") / "store"
    pairs = [part for pair in SETTINGS for part in ("--set", pair)]
    result = CliRunner().invoke(
        run.app, ["train", "--local", "--store", str(store), "--name", "mine", *pairs]
    )
    assert result.exit_code == 0, result.output
    return store


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Store:
    """Return a copy of the store that a test may change."""
    for name in ("sweeps", "teachers", "data"):
        shutil.copytree(trained / name, tmp_path / "store" / name)
    shutil.copy(trained / FORMAT_FILE, tmp_path / "store")
    return Store(tmp_path / "store")
