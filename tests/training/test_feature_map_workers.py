"""Train with feature maps or features in two processes (gloo): both ranks equal one worker."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from trials_run import specification

from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.data.dataset import Dataset
from orchestrator.models.build import build
from orchestrator.models.weights import network_fingerprint, save_weights
from orchestrator.store.store import write_json
from orchestrator.teacher.card import CARD
from orchestrator.teacher.frozen import WEIGHTS
from orchestrator.training._trainer import train
from tests.process_group import on_every_rank

CPU = torch.device("cpu")
COMMON = (
    "training.epochs=2",
    "training.batch_size=16",
    "student.name=mlp",
    "student.width=8",
    "teacher.network={name: cnn, width: 4}",
    "data.limit.train=64",
    "data.limit.validation=40",
    "data.limit.test=40",
)
TRIALS = {  # an mlp has no batch norm, which depends on the number of ranks
    "cached": ("method.name=fitnet", "data.augmentation=none"),
    "online": ("method.name=fitnet", "data.augmentation=crop", "data.views=2"),
    "batch norm": ("method.name=review_kd", "method.warmup=0.0", "training.sync_batch_norm=true"),
    "banks": ("method.name=crd", "method.negatives=16", "method.beta=0.1", "method.width=8"),
}


def trial(root: Path, name: str, folder: str) -> TrialSpec:
    return specification(root, folder, *COMMON, *TRIALS[name])


def add_cnn(spec: TrialSpec) -> None:
    """Write an untrained cnn of width 4 as teacher."""
    assert spec.teacher is not None
    dataset = Dataset.open(spec.data)
    torch.manual_seed(11)
    teacher = build("cnn", len(dataset.classes), dataset.shape, {"width": 4})
    save_weights(teacher, spec.teacher / WEIGHTS)
    card = {
        "weights": network_fingerprint(teacher.state_dict()),
        "network": {"name": "cnn", "width": 4},
    }
    sizes = {"classes": len(dataset.classes), "shape": list(dataset.shape)}
    write_json(spec.teacher / CARD, card | sizes)


def states(spec: TrialSpec) -> dict[str, Tensor]:
    """Return the student and the method's tensors of a finished trial."""
    folder = spec.folder / "checkpoint"
    return load_file(folder / "student.safetensors") | load_file(folder / "method.safetensors")


def worker(rank: int, world_size: int, root: Path) -> list[float]:
    """Train every trial on one rank, and return the loss of each reported epoch."""
    records: list[Any] = []
    for name in TRIALS:
        spec = trial(root, name, f"{name}-2")
        train(spec, TrialContext(rank, world_size, CPU, records.append))
    return [record.metrics["train/features"] for record in records]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    add_cnn(trial(folder, "cached", "first"))
    return folder


def test_two_workers_train_the_student_of_one(root: Path) -> None:
    first, second = on_every_rank(2, worker, root)
    assert len(first) == 2 * len(TRIALS) and second == []
    for name in TRIALS:
        alone = trial(root, name, f"{name}-1")
        alone = alone.model_copy(update={"knowledge": root / "other"})  # fills its own cache
        train(alone, TrialContext())
        expected = states(alone)
        for key, value in states(trial(root, name, f"{name}-2")).items():
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5, msg=key)
