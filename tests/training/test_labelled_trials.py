"""Test trials on partly labelled data: the samples of each loss, and bit-identical resumes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from trials_run import records_of, saved

from methods import METHODS
from methods.batch import Batch
from methods.cross_entropy import CrossEntropy
from methods.method import Objective
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.data.dataset import Dataset
from orchestrator.teacher import fit
from orchestrator.training.process_cache import open_batches

LABELLED = 60
SMALL = (
    "data.limit.train=256",
    "data.limit.validation=60",
    "data.limit.test=60",
    f"data.labelled={LABELLED}",
)
RECIPE = ("training.epochs=3", "training.batch_size=32", "student.name=mlp", "student.width=8")
SUPERVISED = (*SMALL, *RECIPE, "method.name=cross_entropy")

Specify = Callable[..., TrialSpec]


def test_method_that_needs_labels_has_only_labelled_samples(specify: Specify) -> None:
    spec = specify(*SUPERVISED)
    made, whole = open_batches(spec, TrialContext()), Dataset.open(spec.data)
    assert (
        made.dataset.content == whole.labelled().content
        and made.steps() == 1
        and made.labelled == 0
    )
    assert open_batches(spec, TrialContext()).dataset is made.dataset, (
        "the labelled part is cached per process"
    )


def test_other_methods_have_all_samples_in_shares(specify: Specify) -> None:
    made = open_batches(
        specify(*SMALL, *RECIPE, "method.name=kd", "data.labelled_share=0.5"), TrialContext()
    )
    assert (
        len(made.dataset.train) == 256
        and made.labelled == 16
        and made.steps() == (256 - LABELLED) // 16
    )


def test_the_cache_is_filled_for_all_samples_whatever_the_method(specify: Specify) -> None:
    spec = specify(*SUPERVISED, "training.batch_size=2").model_copy(update={"role": "fill"})
    made = open_batches(spec, TrialContext(rank=1, world_size=2))
    assert len(made.dataset.train) == 256 and made.labelled == 0


def test_teacher_is_trained_on_the_labelled_samples(specify: Specify, tmp_path: Path) -> None:
    spec = specify(*SMALL, *RECIPE, "method.name=kd", "teacher.training.batch_size=32")
    fitting = fit.specification(tmp_path / "teacher", spec.configuration, spec.data)
    assert len(open_batches(fitting, TrialContext()).dataset.train) == LABELLED


@pytest.mark.parametrize("name", ["cross_entropy", "kd"])
def test_method_receives_labelled_samples_in_the_configured_share(
    name: str, distil: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each labelled sample with its label, and the configured number of them per batch."""
    seen: list[Batch] = []
    kind = METHODS[name]
    forward = kind.forward

    def noted(method: CrossEntropy, batch: Batch) -> Objective:
        seen.append(batch)
        return forward(method, batch)

    monkeypatch.setattr(kind, "forward", noted)
    spec = distil(*SMALL, *RECIPE, f"method.name={name}")
    records = records_of(spec)
    whole = Dataset.open(spec.data)
    labels = torch.from_numpy((whole.labelled() if name == "cross_entropy" else whole).train.labels)
    assert all(torch.equal(batch.labels, labels[batch.index]) for batch in seen)
    known = {int((batch.labels != -1).sum()) for batch in seen}
    assert known == ({32} if name == "cross_entropy" else {8})
    assert len(seen) == 3 * (1 if name == "cross_entropy" else (256 - LABELLED) // 24)
    assert records[-1].done and all(len(batch.labels) == 32 for batch in seen)


def test_resume_continues_the_order_of_labelled_samples(distil: Specify) -> None:
    """An epoch has 8 x 8 of the 60 labelled ones; the next one continues their second order."""
    pairs = (*SMALL, *RECIPE, "method.name=kd")
    whole, broken = (distil(*pairs, folder=folder) for folder in ("whole", "broken"))
    records_of(whole)
    records_of(broken, dies_after=1)
    records_of(broken)
    expected = saved(whole).student
    assert all(torch.equal(value, expected[key]) for key, value in saved(broken).student.items())
