"""Test trials with sample weights on two workers (gloo): both have the weights of one worker."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trials_run import add_teacher, specification

from orchestrator.cluster._pair import Pair
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import TrialError
from orchestrator.core.reports import EpochRecord
from orchestrator.training._trainer import train
from orchestrator.training.sample_weighting import Snapshot
from tests.process_group import on_every_rank

CPU = torch.device("cpu")
COMMON = (
    "method.name=kd_aif",
    "method.warmup=0.2",
    "data.limit.train=256",
    "data.limit.validation=61",
    "data.limit.test=61",
    "data.label_noise=0.25",
    "data.augmentation=crop",
    "data.views=2",
    "training.batch_size=32",
    "training.epochs=5",
    "student.width=8",
)
SSL = ("method.update=ssl", "data.labelled=80", "data.label_noise=0")
TRIALS = {
    "iterative": COMMON,
    "both": (*COMMON, "method.update=both", "method.teacher_learning_rate=0.1"),
    "ssl": (*COMMON, *SSL),
    "ssl-hard": (
        *COMMON,
        *SSL,
        "method.pseudo=hard",
        "method.threshold=0.12",
        "method.feedback=0.5",
        "method.teacher_learning_rate=0.05",
    ),
}
OTHER = (
    "seconds/",
    "train/images_per_second",
    "cache/",
    "influence/seconds",
    "influence/cpu_seconds",
    "influence/waited",
)


class Failing:
    """An influence client that fails, at the only rank with a client."""

    def send(self, job: Snapshot) -> None:
        """Accept the snapshot."""

    def receive(self, wait_s: float, heartbeat: object) -> None:
        raise TrialError("the error of the actor").with_details("method", 3)

    def drop(self) -> None:
        """Do nothing, because nothing runs."""

    def notes(self) -> list[str]:
        return []


def trained(rank: int, world_size: int, root: str, name: str, *pairs: str) -> list[EpochRecord]:
    records: list[Any] = []
    train(
        specification(Path(root), name, *pairs),
        TrialContext(rank, world_size, CPU, records.append, pair=Pair),
    )
    return records


def failed(rank: int, world_size: int, root: str, name: str, *pairs: str) -> str:
    context = TrialContext(rank, world_size, CPU, pair=Pair, influence_client=Failing)
    with pytest.raises(TrialError) as error:
        train(specification(Path(root), name, *pairs), context)
    return f"{error.value}: {error.value.field} = {error.value.value}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weighed-workers")
    add_teacher(specification(folder, "teacher", *COMMON))
    return folder


def metrics(record: EpochRecord) -> dict[str, float]:
    return {
        key: value
        for key, value in record.metrics.items()
        if not any(part in key for part in OTHER)
    }


@pytest.mark.parametrize("name", TRIALS)
def test_two_workers_have_the_sample_weights_of_one(root: Path, name: str) -> None:
    alone = trained(0, 1, str(root), f"{name}-1", *TRIALS[name])
    together, silent = on_every_rank(2, trained, str(root), f"{name}-2", *TRIALS[name])
    assert not silent
    for one, other in zip(together, alone, strict=True):
        assert metrics(one) == pytest.approx(metrics(other), rel=1e-3, abs=1e-4)
    left = load_file(root / f"{name}-2" / "checkpoint" / "weights.safetensors")
    assert (
        float(left["weights"].mean()) == pytest.approx(1, rel=1e-5) and left["weights"].std() > 0.05
    )


def test_each_student_of_a_pair_has_its_own_sample_weights(root: Path) -> None:
    pairs = (*COMMON, "peers.b.network.name=mlp", "peers.b.network.width=6")
    together = trained(0, 1, str(root), "pair-1", *pairs)
    apart, silent = on_every_rank(2, trained, str(root), "pair-2", *pairs)
    assert not silent
    for one, other in zip(apart, together, strict=True):
        assert metrics(one) == pytest.approx(metrics(other), rel=1e-4, abs=1e-5)
    own = [
        load_file(root / "pair-2" / "checkpoint" / letter / "weights.safetensors")["weights"]
        for letter in (".", "b")
    ]
    assert not own[0].equal(own[1])


def test_error_of_the_influence_client_is_raised_on_both_ranks(root: Path) -> None:
    assert (
        on_every_rank(2, failed, str(root), "failed", *COMMON)
        == ["the error of the actor: method = 3"] * 2
    )
