"""Run a trial in this process, to its end or to a simulated crash, and read its files."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from orchestrator.config.loader import load
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.reports import EpochRecord
from orchestrator.data.dataset import Dataset
from orchestrator.data.prepare import prepare
from orchestrator.models.build import build
from orchestrator.models.weights import network_fingerprint, save_weights
from orchestrator.store.store import write_json
from orchestrator.teacher.card import CARD
from orchestrator.teacher.frozen import WEIGHTS
from orchestrator.training import checkpoint
from orchestrator.training._trainer import train
from orchestrator.training.checkpoint import Checkpoint

TIMED = ("seconds/", "train/images_per_second", "cache/")


def specification(root: Path, name: str, *pairs: str) -> TrialSpec:
    """Return a trial on digits from `key=value` pairs.

    Its folder, data, teacher and knowledge are below `root`. Unlike the fixture `specify`, it is
    the same in every process.
    """
    configuration = load(None, list(pairs))
    return TrialSpec(
        name=name,
        configuration=configuration,
        folder=root / name,
        data=prepare(configuration.data, root, 0),
        teacher=root / "teacher",
        knowledge=root / "knowledge",
    )


def add_teacher(spec: TrialSpec, scale: float = 1.0) -> None:
    """Write an untrained mlp of width 24 as teacher; `scale` multiplies its head's weights."""
    assert spec.teacher is not None
    dataset = Dataset.open(spec.data)
    torch.manual_seed(11)
    teacher = build("mlp", len(dataset.classes), dataset.shape, {"width": 24})
    with torch.no_grad():
        teacher.get_parameter("head.weight").mul_(scale)
    save_weights(teacher, spec.teacher / WEIGHTS)
    card = {
        "weights": network_fingerprint(teacher.state_dict()),
        "network": {"name": "mlp", "width": 24},
    }
    write_json(
        spec.teacher / CARD, card | {"classes": len(dataset.classes), "shape": list(dataset.shape)}
    )


class Interrupted(Exception):
    """Simulated crash of the worker after an epoch."""


def records_of(spec: TrialSpec, dies_after: int | None = None) -> list[EpochRecord]:
    """Return the records of a trial; the worker crashes after the epoch `dies_after`."""
    records: list[Any] = []

    def report(record: Any) -> None:
        records.append(copy.deepcopy(record))
        if record.epoch == dies_after:
            raise Interrupted

    if dies_after is None:
        train(spec, TrialContext(report=report))
    else:
        with pytest.raises(Interrupted):
            train(spec, TrialContext(report=report))
    return records


def saved(spec: TrialSpec, letter: str = "a") -> Checkpoint:
    """Return the checkpoint of one of the trial's students."""
    loaded = checkpoint.load(spec.folder, letter, torch.device("cpu"))
    assert loaded is not None
    return loaded[letter]


def left(spec: TrialSpec) -> dict[str, Tensor]:
    """Return every tensor in the trial's checkpoint, by file and name."""
    folder = spec.folder / "checkpoint"
    return {
        f"{file.relative_to(folder)}/{name}": value
        for file in sorted(folder.glob("**/*.safetensors"))
        for name, value in load_file(file).items()
    }


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics that do not depend on the trial's speed or on cache hits."""
    return {
        name: value for name, value in metrics.items() if not any(part in name for part in TIMED)
    }
