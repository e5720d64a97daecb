"""Test a training that stops after some epochs and resumes, also with other settings."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from trials_run import saved

from orchestrator.config.trial import CHECKPOINT, TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.reports import EpochRecord
from orchestrator.training._trainer import train

Specify = Callable[..., TrialSpec]
CPU = torch.device("cpu")
GIVEN = (
    "data.limit.train=128",
    "data.limit.validation=60",
    "data.limit.test=60",
    "training.epochs=4",
    "training.batch_size=32",
    "student.name=mlp",
    "student.width=8",
    "method.name=cross_entropy",
    "teacher=null",
)


def records_of(spec: TrialSpec, until: int | None = None) -> list[EpochRecord]:
    records: list[Any] = []
    train(
        spec.model_copy(update={"until": until}),
        TrialContext(report=lambda record: records.append(copy.deepcopy(record))),
    )
    return records


def test_stopped_training_continues_with_the_same_result(specify: Specify) -> None:
    whole = records_of(specify(*GIVEN, folder="whole"))
    spec = specify(*GIVEN, folder="parts")
    parts = [records_of(spec, until) for until in (1, 3, 3, None)]
    assert [[record.epoch for record in each] for each in parts] == [[1], [1, 2, 3], [3], [3, 4]]
    assert [bool(record.done) for each in parts for record in each] == [False] * 6 + [True]
    assert parts[-1][-1].metrics["test/last/nll"] == whole[-1].metrics["test/last/nll"]


@pytest.mark.parametrize("until", [4, 9])
def test_a_limit_that_is_not_reached_changes_nothing(until: int, specify: Specify) -> None:
    records = records_of(specify(*GIVEN), until)
    assert [record.epoch for record in records] == [1, 2, 3, 4] and records[-1].done


def test_copied_checkpoint_is_trained_with_the_new_settings(
    specify: Specify, tmp_path: Path
) -> None:
    donor = specify(*GIVEN, "training.weight_decay=0.5", folder="donor")
    records_of(donor, 2)
    rates = []
    for name, decay in (("same", 0.5), ("other", 0.0)):
        taker = specify(*GIVEN, f"training.weight_decay={decay}", folder=name)
        shutil.copytree(donor.folder / CHECKPOINT, taker.folder / CHECKPOINT)
        assert [record.epoch for record in records_of(taker, 3)] == [2, 3]
        state = saved(taker)
        rates.append(sum(float(value.norm()) for value in state.student.values()))
        assert state.optimizer["optimizer"]["param_groups"][0]["weight_decay"] == decay
    assert rates[0] < rates[1], "each trial uses its own weight decay"
