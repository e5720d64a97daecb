"""What the tests of the teacher share: one with random weights. Knows no trainer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from orchestrator.data import Dataset
from orchestrator.models import build, network_fingerprint, save_weights
from orchestrator.store import write_json
from orchestrator.teacher.frozen import CARD, WEIGHTS

MakeTeacher = Callable[..., Path]


@pytest.fixture
def make_teacher(tmp_path: Path) -> MakeTeacher:
    """A teacher with random weights for the data in a folder."""

    def make(data: Path, network: str = "mlp", **settings: int) -> Path:
        dataset, folder = Dataset.open(data), tmp_path / f"teacher-{network}"
        torch.manual_seed(11)
        made = build(network, len(dataset.classes), dataset.shape, settings)
        save_weights(made, folder / WEIGHTS)
        card = {"weights": network_fingerprint(made.state_dict()), "network": {"name": network, **settings}}
        write_json(folder / CARD, card | {"classes": len(dataset.classes), "shape": list(dataset.shape)})
        return folder

    return make
