"""Data sets for the tests of batches and blends: arrays, and files of images."""

from pathlib import Path

import pytest
from data_made import folder, npz, opened

from orchestrator.config.data_schema import Data
from orchestrator.data.dataset import Dataset
from orchestrator.data.prepare import prepare


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Return a data set of arrays."""
    return opened(tmp_path, npz(tmp_path))


@pytest.fixture
def files(tmp_path: Path) -> Dataset:
    """Return a data set of image files, which are decoded on access."""
    config = Data(
        name="folder", path=folder(tmp_path / "images", ("train", "val", "test")), size=16
    )
    return Dataset.open(prepare(config, tmp_path, 0))
