"""Test the precision of training and evaluation in one process."""

from collections.abc import Callable

import pytest
import torch
from trials_run import records_of, saved

from orchestrator.config.data_schema import Data
from orchestrator.config.trial import TrialSpec
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.views import Views
from orchestrator.models.build import build

PLAIN = (
    "data.limit.train=256",
    "data.limit.validation=60",
    "data.limit.test=60",
    "data.augmentation=crop",
    "data.views=3",
    "training.epochs=4",
    "training.batch_size=32",
    "student.name=mlp",
    "method.name=cross_entropy",
    "teacher=null",
)

Specify = Callable[..., TrialSpec]


def test_bfloat16_trains_and_keeps_its_weights_in_float32(specify: Specify) -> None:
    spec = specify(
        *PLAIN, "student.width=32", "training.precision=bfloat16", "training.learning_rate=0.1"
    )
    records = records_of(spec)
    assert all(value == value for record in records for value in record.metrics.values())
    assert records[-1].metrics["train/loss"] < records[0].metrics["train/loss"]
    assert {value.dtype for value in saved(spec).student.values()} == {torch.float32}
    exact = specify(
        *PLAIN,
        "student.width=32",
        "training.precision=float32",
        "training.learning_rate=0.1",
        folder="exact",
    )
    records_of(exact)
    assert not torch.equal(
        saved(exact).student["head.weight"], saved(spec).student["head.weight"]
    ), "the trial ran in bfloat16"


@pytest.mark.parametrize(
    ("pair", "exact"),
    [("eval_precision=float32", True), ("eval_precision=bfloat16", False), ("", False)],
)
def test_evaluation_uses_its_precision_and_a_float32_head(
    specify: Specify, pair: str, exact: bool
) -> None:
    spec = specify(
        *PLAIN,
        "student.width=32",
        "training.precision=bfloat16",
        *([f"training.{pair}"] if pair else []),
    )
    found = records_of(spec)[-1].metrics["validation/nll"]
    dataset = Dataset.open(spec.data)
    network = build("mlp", len(dataset.classes), dataset.shape, {"width": 32}).eval()
    network.load_state_dict(saved(spec).student)
    (whole,) = Batches(dataset, Views.from_config(dataset, Data(), 0), 256, 0).iterate_in_order(
        "validation"
    )
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16, enabled=not exact):
            features = network.body(whole.inputs).float()
        log_q = (features @ network.head.weight.T + network.head.bias).log_softmax(1)
    assert found == pytest.approx(-float(log_q.gather(1, whole.labels[:, None]).mean()), rel=1e-5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=exact):
        # the other type, and for a bfloat16 body its own head
        other = network(whole.inputs).logits.float().log_softmax(1)
    assert abs(found + float(other.gather(1, whole.labels[:, None]).mean())) > 1e-5
