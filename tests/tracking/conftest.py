"""Fixtures of a store with an MLflow database."""

import shutil
from pathlib import Path

import pytest

from orchestrator.store.store import Store
from orchestrator.tracking._client import connect


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an MLflow database without runs."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{file}").search_experiments(max_results=1)
    return file


@pytest.fixture
def tracked_store(tmp_path: Path, empty_database: Path) -> Store:
    """Return a store with such a database."""
    store = Store.open(tmp_path / "store")
    shutil.copy(empty_database, store.database)
    return store
