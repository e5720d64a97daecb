"""Test students in separate processes (gloo): they equal those of one process."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trials_run import add_teacher, specification

from orchestrator.cluster._pair import Pair
from orchestrator.core.context import TrialContext
from orchestrator.core.reports import EpochRecord
from orchestrator.training._trainer import train
from tests.process_group import on_every_rank

CPU = torch.device("cpu")
COMMON = (
    "data.limit.train=256",
    "data.limit.validation=61",
    "data.limit.test=61",
    "data.augmentation=crop",
    "data.views=2",
    "training.batch_size=32",
    "training.epochs=3",
    "student.name=mlp",
    "student.width=8",
    "peers.b.network.name=cnn",
    "peers.b.network.width=4",
    "peers.b.training.learning_rate=0.01",
)
DUAL = ("method.name=dual_student", "method.lambda_peer=0.3", "method.peer_warmup=0.34")
TRIALS = {
    "simultaneous": (*COMMON, *DUAL),
    "alternating": (*COMMON, *DUAL, "method.update=alternating"),
    "unused": (*COMMON, *DUAL, "method.lambda_peer=0", "method.w_norm=mean1"),
    "online": (*COMMON, *DUAL, "teacher.mode=online"),
    "apart": (*COMMON, "method.name=kd"),
    "three": (*COMMON, "method.name=dml", "peers.c.network.name=mlp", "peers.c.network.width=6"),
    "three-in-turn": (
        *COMMON,
        "method.name=dml",
        "method.update=alternating",
        "peers.c.network.name=mlp",
        "peers.c.network.width=6",
    ),
}
TIMED = ("seconds/", "train/images_per_second", "cache/")


def trained(rank: int, world_size: int, root: str, name: str, *pairs: str) -> list[EpochRecord]:
    """Return the records that a rank of a trial reported.

    If the name contains "stopped", the trial is stopped and resumed.
    """
    records: list[Any] = []
    stop_requests = (
        [lambda: len(records) == 1, lambda: False] if "stopped" in name else [lambda: False]
    )
    for stop_requested in stop_requests:
        context = TrialContext(rank, world_size, CPU, records.append, stop_requested, pair=Pair)
        train(specification(Path(root), name, *pairs), context)
    return records


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    add_teacher(specification(folder, "teacher", *COMMON))
    return folder


def run(root: Path, name: str, world_size: int, *pairs: str) -> list[EpochRecord]:
    """Return the records of a trial with `world_size` workers, of which only rank 0 reports."""
    if world_size == 1:
        return trained(0, 1, str(root), name, *pairs)
    first, *others = on_every_rank(world_size, trained, str(root), name, *pairs)
    assert not any(others)
    return first


def metrics(record: EpochRecord) -> dict[str, float]:
    return {key: value for key, value in record.metrics.items() if not key.startswith(TIMED)}


def weights(root: Path, name: str, letter: str) -> dict[str, torch.Tensor]:
    return load_file(
        root / name / "checkpoint" / ("" if letter == "a" else letter) / "student.safetensors"
    )


LONG = ("three-in-turn", "unused", "apart", "alternating")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in TRIALS],
)
def test_workers_train_the_students_of_one_process(root: Path, name: str) -> None:
    count = 3 if "three" in name else 2
    apart, together = (run(root, f"{name}-{world}", world, *TRIALS[name]) for world in (count, 1))
    for one, other in zip(apart, together, strict=True):
        assert metrics(one) == pytest.approx(metrics(other), rel=1e-5, abs=1e-6)
    for letter in "abc"[:count]:
        ours, theirs = weights(root, f"{name}-{count}", letter), weights(root, f"{name}-1", letter)
        for key, value in ours.items():
            torch.testing.assert_close(
                value, theirs[key], rtol=1e-5, atol=1e-6, msg=f"{letter} {key}"
            )


def test_two_pairs_train_the_students_of_one(root: Path) -> None:
    pairs = (
        *COMMON,
        *DUAL,
        "method.w_norm=mean1",
        "peers.b.network.name=mlp",
    )  # no batch norm: its statistics depend on the number of workers
    four, one = run(root, "of-four", 4, *pairs), run(root, "of-one", 1, *pairs)
    for ours, theirs in zip(four, one, strict=True):
        assert metrics(ours) == pytest.approx(metrics(theirs), rel=2e-3, abs=2e-3)
    for letter in "ab":
        for key, value in weights(root, "of-four", letter).items():
            torch.testing.assert_close(
                value,
                weights(root, "of-one", letter)[key],
                rtol=1e-3,
                atol=1e-4,
                msg=f"{letter} {key}",
            )


@pytest.mark.parametrize(
    ("world_size", "update"),
    [
        (2, "alternating"),
        *(pytest.param(world, "simultaneous", marks=pytest.mark.slow) for world in (2, 4)),
    ],
)
def test_resume_of_a_pair_in_two_workers_is_bit_identical(
    root: Path, world_size: int, update: str
) -> None:
    pairs = (*COMMON, *DUAL, f"method.update={update}")
    whole, broken = f"whole-{update}-{world_size}", f"stopped-{update}-{world_size}"
    expected, found = run(root, whole, world_size, *pairs), run(root, broken, world_size, *pairs)
    assert [record.epoch for record in found] == [1, 1, 2, 3]
    assert [metrics(record) for record in found[1:]] == [metrics(record) for record in expected]
    for letter in "ab":
        ours = weights(root, broken, letter)
        assert all(
            torch.equal(value, ours[key]) for key, value in weights(root, whole, letter).items()
        )


def exchange_logits(rank: int, world_size: int, in_turn: bool) -> list[Any]:
    """Return what a rank received: logits equal the sender's rank, plus 10 after its step."""
    pair = Pair(TrialContext(rank, world_size, CPU), 2)
    position = pair.local_positions[0]
    received = []
    for step in range(3):
        logits = torch.full((4, 3), float(rank + 100 * step))
        pair.publish(position, logits, in_turn)
        receive_others = pair.receive(position)
        if step != 1:  # in one step the logits are not requested
            received.append(receive_others())
        if in_turn and position == 0:
            pair.republish(position, logits + 10)
        pair.end_step()
    return [
        received,
        pair.context.rank,
        pair.context.world_size,
        float(pair.context.all_reduce_sum(torch.tensor(float(rank)))),
        pair.take_wait_seconds() > 0,
    ]


@pytest.mark.parametrize("in_turn", [False, True])
def test_pair_exchanges_logits_and_its_replicas_reduce(in_turn: bool) -> None:
    for rank, (received, place, replicas, total, waited) in enumerate(
        on_every_rank(4, exchange_logits, in_turn)
    ):
        other = rank + 1 if rank % 2 == 0 else rank - 1
        after = 10 if in_turn and rank % 2 else 0
        assert [box.shape for box in received] == [(1, 4, 3)] * 2
        assert [float(box.mean()) for box in received] == [other + after, other + after + 200]
        assert (place, replicas) == (rank // 2, 2)
        assert total == (0 + 2 if rank % 2 == 0 else 1 + 3) and waited


def threads(rank: int, world_size: int, root: str, *pairs: str) -> int:
    """Return the number of torch's threads of a rank after a trial."""
    trained(rank, world_size, root, "threads", *pairs)
    return torch.get_num_threads()


def test_each_student_has_its_own_number_of_threads(root: Path) -> None:
    few = ("training.epochs=1", "peers.b.threads_per_worker=2")
    assert on_every_rank(2, threads, str(root), *COMMON, *few, "method.name=kd") == [1, 2]
