"""Test IC-KD trials: bit-identical resumes for each paradigm and bank, and equal workers (gloo)."""

from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from trials_run import add_teacher, left, records_of, specification, untimed

from methods import Knowledge, ic_kd
from methods.bank import Bank, BankQuery
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.training._trainer import train
from tests.process_group import on_every_rank

CPU = torch.device("cpu")
SAMPLES, EPOCHS = 141, 3  # 141 is odd
COMMON = (
    f"data.limit.train={SAMPLES}",
    "data.limit.validation=40",
    "data.limit.test=40",
    "data.augmentation=crop",
    "data.views=2",
    f"training.epochs={EPOCHS}",
    "training.batch_size=32",
    "student.name=mlp",
    "student.width=8",
    "method.name=ic_kd",
    "method.positives=3",
    "method.negatives=4",
    "method.queue=90",
    "method.bank_momentum=0.5",
)
FREE = ("method.paradigm=teacher_free", "method.alpha=0.4")
ONLINE = (
    "method.paradigm=online",
    "method.alpha=0.4",
    "peers.b.network.name=mlp",
    "peers.b.network.width=6",
)
TRIALS = {
    "offline": ("method.paradigm=offline",),
    **{f"free-{fill}": (*FREE, f"method.bank={fill}") for fill in ("epoch", "ema", "momentum")},
    **{f"online-{fill}": (*ONLINE, f"method.bank={fill}") for fill in ("epoch", "momentum")},
}
SHARED = ("offline", "free-momentum")


def trial(root: Path, name: str, folder: str) -> TrialSpec:
    """Return a trial with its own cache, and a teacher if the paradigm has one."""
    spec = specification(root, folder, *COMMON, *TRIALS[name])
    teacher = spec.teacher if name == "offline" else None
    return spec.model_copy(update={"teacher": teacher, "knowledge": root / f"knowledge-{folder}"})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the data and a teacher."""
    folder = tmp_path_factory.mktemp("ic_kd")
    add_teacher(trial(folder, "offline", "prepared"), scale=5)
    return folder


@cache
def whole(root: Path, name: str) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Return the metrics of an uninterrupted trial, and every tensor in its checkpoint."""
    spec = trial(root, name, f"whole-{name}")
    return [untimed(record.metrics) for record in records_of(spec)], left(spec)


@pytest.mark.parametrize(
    ("name", "dies_after"), [*((name, 2) for name in TRIALS), ("offline", 1), ("free-ema", 1)]
)
def test_resume_is_bit_identical(root: Path, name: str, dies_after: int) -> None:
    expected, tensors = whole(root, name)
    spec = trial(root, name, f"{name}-{dies_after}")
    before, after = records_of(spec, dies_after), records_of(spec)
    assert [untimed(record.metrics) for record in [*before, *after[1:]]] == expected
    found = left(spec)
    assert set(found) == set(tensors) and all(
        torch.equal(value, found[key]) for key, value in tensors.items()
    )


@pytest.mark.parametrize("name", TRIALS)
def test_both_terms_are_positive_once_a_bank_exists(root: Path, name: str) -> None:
    """Otherwise the test above has no effect. Offline from epoch 1 on, else from epoch 2."""
    metrics, _ = whole(root, name)
    for student in ("a/", "b/") if name.startswith("online") else ("",):
        for term in ("picd", "nicd"):
            assert [each.get(f"{student}train/{term}", 0) > 0 for each in metrics] == [
                name == "offline",
                True,
                True,
            ]


def both(rank: int, world_size: int, root: str) -> dict[str, list[Any]]:
    """Return each trial's metrics, and the banks in force at this rank."""
    found = {}
    for name in SHARED:
        records, banks = list[Any](), list[dict[str, Tensor]]()

        def noted(
            knowledge: Knowledge, query: BankQuery, banks: list[dict[str, Tensor]] = banks
        ) -> Bank:
            bank = Bank(knowledge, query)
            assert bank.targets is not None
            tables = {
                key: value
                for key, value in bank.neighbours._asdict().items()
                if isinstance(value, Tensor)
            }
            banks.append({"logits": knowledge.logits, "targets": bank.targets, **tables})
            return bank

        with patch.object(ic_kd, "Bank", noted):
            train(
                trial(Path(root), name, f"{name}-of-{world_size}"),
                TrialContext(rank, world_size, CPU, records.append),
            )
        found[name] = [[untimed(record.metrics) for record in records], banks]
    return found


@pytest.fixture(scope="module")
def of_two(root: Path) -> list[dict[str, list[Any]]]:
    return on_every_rank(2, both, str(root))


@pytest.mark.parametrize("name", SHARED)
def test_replicas_share_one_bank(of_two: list[dict[str, list[Any]]], name: str) -> None:
    first, second = (of_rank[name][1] for of_rank in of_two)
    assert len(first) == len(second) == (1 if name == "offline" else EPOCHS - 1)
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(value, other[table]) for table, value in one.items())
        assert len(one["positives"]) == SAMPLES and (one["positives"] >= 0).any()


@pytest.mark.parametrize("name", SHARED)
def test_two_workers_train_like_one(
    root: Path, of_two: list[dict[str, list[Any]]], name: str
) -> None:
    (ours, banks), (theirs, banks_of_one) = of_two[0][name], both_alone(root)[name]
    for one, other in zip(banks, banks_of_one, strict=True):
        for table in ("logits", "targets", "positive_similarity", "negative_similarity"):
            torch.testing.assert_close(one[table], other[table], rtol=1e-4, atol=1e-4)
    assert len(ours) == EPOCHS
    for mine, one_has in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(one_has, rel=1e-3, abs=1e-3)


@cache
def both_alone(root: Path) -> dict[str, list[Any]]:
    return both(0, 1, str(root))
