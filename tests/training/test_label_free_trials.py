"""Test trials on data without any label in training: the teacher alone trains the student."""

from pathlib import Path

import pytest
import torch
from trials_run import add_teacher, left, records_of, specification, untimed

from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.sweep.preflight._data import check_batches
from tests.data_summary import data_summary
from tests.refusal import refused

PAIRS = (
    "training.epochs=3",
    "training.batch_size=16",
    "student.name=mlp",
    "student.width=8",
    "data.limit.train=96",
    "data.limit.validation=40",
    "data.limit.test=40",
    "data.augmentation=crop",
)


@pytest.mark.parametrize("method", ["kd", "dist", "akd"])
def test_student_learns_from_the_teacher_alone(method: str, tmp_path: Path) -> None:
    spec = specification(tmp_path, "free", *PAIRS, f"method.name={method}", "data.labelled=0")
    add_teacher(spec)
    records = records_of(spec)
    assert all(record.metrics["train/cross_entropy"] == 0 for record in records)
    assert records[-1].metrics["train/loss"] < records[0].metrics["train/loss"]
    assert "validation/accuracy" in records[-1].metrics


def test_hidden_labels_have_no_effect_at_alpha_one(tmp_path: Path) -> None:
    """With or without labels, the student is the same to the bit, also after a resume."""
    common = (*PAIRS, "method={name: kd, alpha: 1.0}")
    labelled = specification(tmp_path, "labelled", *common)
    free, broken = (
        specification(tmp_path, name, *common, "data.labelled=0") for name in ("free", "broken")
    )
    add_teacher(labelled)
    records_of(labelled)
    records = records_of(free)
    records_of(broken, dies_after=1)
    again = records_of(broken)
    assert [untimed(each.metrics) for each in again] == [untimed(each.metrics) for each in records]
    expected = left(labelled)
    for spec in (free, broken):
        for name, value in left(spec).items():
            if "student" in name:
                assert torch.equal(value, expected[name]), name


def checked(*pairs: str) -> Configuration:
    configuration = load(None, ["method.name=kd", "data.labelled=0", *pairs])
    check_batches(configuration, False, data_summary(train=400, labelled=0))
    return configuration


@pytest.mark.parametrize(
    ("pairs", "field"),
    [
        (("method.name=cross_entropy",), "method.name"),
        (("method.name=dkd",), "method.name"),
        (("method.name=kd_aif",), "method.name"),
        (("method.name=ic_kd",), "method.name"),
        (("method={name: fitnet, alpha: 0.0}",), "method.name"),
        (("data.label_noise=0.1",), "data.label_noise"),
        (("data.class_weights=balanced",), "data.class_weights"),
        ((), "teacher.network.weights"),
    ],
)
def test_what_needs_labels_is_refused(pairs: tuple[str, ...], field: str) -> None:
    with refused(field):
        checked(*pairs)


def test_given_weights_are_enough(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.touch()
    checked(f"teacher.network.weights={weights}", "method={name: fitnet, alpha: 0.5}")
