"""What every test shares: one thread, and configurations small enough for a second."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from orchestrator.config import Configuration, load
from orchestrator.data import prepare
from orchestrator.trial import TrialSpec

torch.set_num_threads(1)

Specify = Callable[..., TrialSpec]


@pytest.fixture(scope="session")
def digits_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the digits are prepared; tests only add to it."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def specify(digits_store: Path, tmp_path: Path) -> Specify:
    """Builds the specification of a trial on digits from `key=value` pairs; `folder` and `teacher` may be given."""

    def build(*pairs: str, folder: str = "trial", teacher: Path | None = None) -> TrialSpec:
        configuration: Configuration = load(None, list(pairs))
        data = prepare(configuration.data, digits_store, configuration.data.seed)
        return TrialSpec(
            name="trial",
            configuration=configuration,
            folder=tmp_path / folder,
            data=data,
            teacher=teacher,
            knowledge=tmp_path / "knowledge",
        )

    return build
