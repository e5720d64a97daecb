"""The two forms of data that tests of batches and of blends share: arrays, and files of images."""

from pathlib import Path

import pytest
from data_made import folder, npz, opened

from orchestrator.config.data_schema import Data
from orchestrator.data.dataset import Dataset
from orchestrator.data.prepare import prepare


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Arrays."""
    return opened(tmp_path, npz(tmp_path))


@pytest.fixture
def files(tmp_path: Path) -> Dataset:
    """A folder of images, decoded when they are asked for."""
    config = Data(name="folder", path=folder(tmp_path / "images", ("train", "val", "test")), size=16)
    return Dataset.open(prepare(config, tmp_path, 0))
