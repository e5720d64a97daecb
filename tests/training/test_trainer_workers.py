"""Test a trial's training in two processes (gloo): the student of a single worker."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from trials_run import add_teacher, specification

from orchestrator.config.data_schema import Data
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import PreflightError, UserError
from orchestrator.core.reports import EpochRecord
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.views import Views
from orchestrator.models.build import build
from orchestrator.teacher.cache import Cache
from orchestrator.teacher.frozen import WEIGHTS, FrozenTeacher
from orchestrator.teacher.outputs import CachedTeacher
from orchestrator.training import _student as student
from orchestrator.training._distillation_module import DistillationModule, replicate
from orchestrator.training._trainer import train
from orchestrator.training.metrics import Scores
from tests.process_group import on_every_rank

CPU = torch.device("cpu")
WORKERS, EPOCHS = 2, 3
COMMON = (
    f"training.epochs={EPOCHS}",
    "training.batch_size=32",
    "data.limit.train=256",
    "data.augmentation=crop",
)
# parts of odd size for two workers
UNEVEN = ("data.limit.validation=61", "data.limit.test=61")
TRIALS = {
    "cnn": (
        "student.name=cnn",
        "student.width=4",
        "method.name=wttm",
        "training.optimizer=adamw",
        "training.learning_rate=0.003",
    ),
    "cnn-stopped": (
        "student.name=cnn",
        "student.width=4",
        "method.name=wttm",
        "training.optimizer=adamw",
        "training.learning_rate=0.003",
    ),
    "mlp": ("student.name=mlp", "student.width=8", "method.name=kd"),
    "mixed": (
        "student.name=mlp",
        "student.width=8",
        "method.name=kd",
        "data.mixing=mixup",
        "data.labelled=60",
    ),
    "dist": (
        "student.name=mlp",
        "student.width=8",
        "method.name=dist",
        "method.temperature=1",
        "data.mixing=mixup",
        "data.labelled=60",
    ),
    "dkd": (
        "student.name=mlp",
        "student.width=8",
        "method.name=dkd",
        "method.warmup=0.9",
        "method.standardize=true",
        "data.mixing=mixup",
        "data.labelled=128",
    ),
    "mlkd": (
        "student.name=mlp",
        "student.width=8",
        "method={name: mlkd, batch_level: 0.1, class_level: 0.1}",
        "data.mixing=mixup",
        "data.labelled=60",
    ),
    "synchronised": (
        "student.name=cnn",
        "student.width=4",
        "method.name=kd",
        "training.sync_batch_norm=true",
    ),
    "diverged": (
        "student.name=mlp",
        "student.width=8",
        "method.name=kd",
        "training.learning_rate=1e10",
    ),
    "locked": (
        "student.name=mlp",
        "student.width=8",
        "method.name=kd",
        "resources.heartbeat_timeout_s=0.01",
        "seed=5",
    ),
}


def trial(root: Path, name: str, folder: str = "") -> TrialSpec:
    return specification(root, folder or name, *COMMON, *UNEVEN, *TRIALS[name])


def worker(rank: int, world_size: int, root: Path) -> None:
    """Train every trial on one rank, and save records, last weights and failure to files."""
    modules: list[DistillationModule] = []

    def noted(module: DistillationModule, context: TrialContext) -> torch.nn.Module:
        modules.append(module)
        return replicate(module, context)

    with patch.object(student, "replicate", noted):
        for name in TRIALS:
            records, failure = trained(root, name, rank, world_size)
            state = {
                key: value.detach().contiguous().clone()
                for key, value in modules[-1].student.state_dict().items()
            }
            save_file(state, root / f"{name}-{rank}.safetensors")
            (root / f"{name}-{rank}.json").write_text(
                json.dumps({"records": [record.plain() for record in records], "failure": failure})
            )


def trained(root: Path, name: str, rank: int, world_size: int) -> tuple[list[EpochRecord], str]:
    """Return a trial's records and its failure; one trial is stopped after epoch 1 and resumed."""
    spec, records = trial(root, name), list[Any]()
    stops = (
        (lambda: len(records) == 1, lambda: False) if name == "cnn-stopped" else (lambda: False,)
    )
    try:
        for stop_requested in stops:
            train(spec, TrialContext(rank, world_size, CPU, records.append, stop_requested))
    except UserError as error:
        return records, f"{type(error).__name__}: {error.field} = {error.value}"
    return records, ""


def locked_file(root: Path) -> Path:
    spec = trial(root, "locked")
    dataset = Dataset.open(spec.data)
    batches = Batches(
        dataset,
        Views.from_config(dataset, spec.configuration.data, spec.configuration.seed),
        32,
        spec.configuration.seed,
    )
    teacher = FrozenTeacher.open(root / "teacher", CPU)
    source = CachedTeacher(
        teacher, batches, Cache(root / "knowledge", 2**30), "float16", TrialContext(), 1
    )
    file = source.files(0)["logits"]
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which two workers have trained all trials."""
    folder = tmp_path_factory.mktemp("workers")
    add_teacher(trial(folder, "mlp"))
    with FileLock(f"{locked_file(folder)}.lock"):
        on_every_rank(WORKERS, worker, folder)
    return folder


def left(root: Path, name: str, rank: int) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((root / f"{name}-{rank}.json").read_text())
    return kept | {"records": [EpochRecord(**record) for record in kept["records"]]}


def without_time(records: list[EpochRecord]) -> list[dict[str, Any]]:
    timed = ("seconds/", "train/images_per_second", "cache/")
    return [
        {name: value for name, value in record.metrics.items() if not name.startswith(timed)}
        for record in records
    ]


def alone(root: Path, name: str) -> tuple[list[EpochRecord], dict[str, torch.Tensor]]:
    records: list[Any] = []
    spec = trial(root, name, folder=f"{name}-alone")
    train(spec, TrialContext(report=records.append))
    return records, load_file(spec.folder / "checkpoint" / "student.safetensors")


@pytest.mark.parametrize("name", ["cnn", "cnn-stopped", "mlp"])
def test_all_ranks_end_with_the_same_weights_and_the_first_alone_reports(
    root: Path, name: str
) -> None:
    first, second = (load_file(root / f"{name}-{rank}.safetensors") for rank in range(WORKERS))
    kept = load_file(root / name / "checkpoint" / "student.safetensors")
    assert set(first) == set(second) == set(kept)
    for key, value in first.items():
        assert torch.equal(value, second[key]) and torch.equal(value, kept[key]), key
    assert not left(root, name, 0)["failure"] and not left(root, name, 1)["failure"]
    assert left(root, name, 1)["records"] == []


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_the_scores_are_those_of_one_process_on_the_same_weights(root: Path, name: str) -> None:
    spec = trial(root, name)
    dataset, student = Dataset.open(spec.data), spec.configuration.student
    networks = {
        "student": build(
            student.name, len(dataset.classes), dataset.shape, student.settings
        ).eval(),
        "teacher": build("mlp", len(dataset.classes), dataset.shape, {"width": 24}).eval(),
    }
    networks["student"].load_state_dict(
        load_file(spec.folder / "checkpoint" / "student.safetensors")
    )
    networks["teacher"].load_state_dict(load_file(root / "teacher" / WEIGHTS))
    (whole,) = Batches(dataset, Views.from_config(dataset, Data(), 0), 256, 0).iterate_in_order(
        "validation"
    )
    scores = Scores(len(dataset.classes), CPU)
    with torch.no_grad():
        student_logits, teacher_logits = (
            networks[who](whole.inputs).logits for who in ("student", "teacher")
        )
    scores.add(student_logits, whole.labels, teacher_logits.argmax(dim=1))
    reported = left(root, name, 0)["records"][-1].metrics
    for key, value in scores.metrics(agreement=True).items():
        assert reported[f"validation/{key}"] == pytest.approx(value, rel=1e-5), key


def test_resume_with_two_workers_is_bit_identical(root: Path) -> None:
    whole, broken = (left(root, name, 0)["records"] for name in ("cnn", "cnn-stopped"))
    assert [record.epoch for record in whole] == [1, 2, 3]
    assert [record.epoch for record in broken] == [1, 1, 2, 3], (
        "stopped in the second epoch, and resumed"
    )
    assert without_time(broken[1:]) == without_time(whole)
    one, other = (root / name / "checkpoint" for name in ("cnn", "cnn-stopped"))
    for file in ("student.safetensors", "best.safetensors"):
        expected, states = load_file(one / file), load_file(other / file)
        assert all(torch.equal(states[key], value) for key, value in expected.items()), file


@pytest.mark.parametrize("name", ["mlp", "mixed", "dist", "dkd", "mlkd", "synchronised"])
def test_two_workers_train_the_student_of_one_with_the_same_global_batch(
    root: Path, name: str
) -> None:
    """Also with uneven label shares by blending, or with batch norm over all workers."""
    records, weights = alone(root, name)
    for key, value in load_file(root / f"{name}-0.safetensors").items():
        torch.testing.assert_close(value, weights[key], rtol=1e-4, atol=1e-5)
    for mine, ours in zip(
        without_time(records), without_time(left(root, name, 0)["records"]), strict=True
    ):
        assert ours == pytest.approx(mine, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("rank", range(WORKERS))
def test_divergence_is_raised_on_every_rank(root: Path, rank: int) -> None:
    assert (
        left(root, "diverged", rank)["failure"]
        == "TrialError: training.learning_rate = 10000000000.0"
    )


@pytest.mark.parametrize("rank", range(WORKERS))
def test_lock_timeout_is_raised_on_every_rank(root: Path, rank: int) -> None:
    file = locked_file(root)
    assert left(root, "locked", rank)["failure"] == f"{PreflightError.__name__}: {file} = 0.01"
