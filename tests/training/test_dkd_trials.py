"""Test trials of DKD and DIST: a resume within the warm-up is bit-identical."""

from pathlib import Path

import pytest
import torch
from trials_run import add_teacher, left, records_of, specification, untimed

PAIRS = (
    "training.epochs=4",
    "training.batch_size=16",
    "student.name=mlp",
    "student.width=8",
    "data.limit.train=96",
    "data.limit.validation=40",
    "data.limit.test=40",
    "data.augmentation=crop",
)


@pytest.mark.parametrize("method", ["{name: dkd, warmup: 1.0}", "{name: dist}"])
def test_resume_is_bit_identical(method: str, tmp_path: Path) -> None:
    whole, broken = (
        specification(tmp_path, folder, *PAIRS, f"method={method}") for folder in ("one", "two")
    )
    add_teacher(whole)
    records = records_of(whole)
    records_of(broken, dies_after=2)
    again = records_of(broken)
    assert [record.epoch for record in again] == [2, 3, 4]
    assert [untimed(each.metrics) for each in again] == [
        untimed(each.metrics) for each in records[1:]
    ]
    expected = left(whole)
    for name, value in left(broken).items():
        assert torch.equal(value, expected[name]), name
    if "dkd" in method:
        ramp = [record.metrics["method/warmup"] for record in (*records[:1], *again)]
        assert ramp == [0.25, 0.5, 0.75, 1.0]
