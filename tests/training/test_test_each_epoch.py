"""Test the recording of the test accuracy after each epoch: information that chooses nothing."""

from collections.abc import Callable

import pytest
from trials_run import records_of

from orchestrator.config.trial import TrialSpec
from orchestrator.training.metric_names import TEST_EPOCH, TEST_HIGHEST

EPOCHS = 4
SMALL = (
    *("data.limit.train=128", "data.limit.validation=60", "data.limit.test=60"),
    *(f"training.epochs={EPOCHS}", "training.batch_size=32", "student.name=mlp"),
    *("student.width=8", "method.name=cross_entropy", "teacher=null"),
)
EACH = "tracking.test_each_epoch=true"
Specify = Callable[..., TrialSpec]


def without_costs(metrics: dict[str, float]) -> dict[str, float]:
    costs = ("seconds/", "train/images_per_second", "cache/")
    return {name: value for name, value in metrics.items() if not name.startswith(costs)}


def test_every_epoch_has_a_test_accuracy_and_the_last_one_the_highest(specify: Specify) -> None:
    records = records_of(specify(*SMALL, EACH))
    tested = [record.metrics[TEST_EPOCH] for record in records]
    assert len(tested) == EPOCHS and len(set(tested)) > 1
    assert tested[-1] == records[-1].metrics["test/last/accuracy"]
    assert [record.metrics.get(TEST_HIGHEST) for record in records] == [None] * (EPOCHS - 1) + [
        max(tested)
    ]


def test_the_training_and_its_choices_stay_the_same(specify: Specify) -> None:
    without = records_of(specify(*SMALL, folder="without"))
    tested = records_of(specify(*SMALL, EACH, folder="tested"))
    for one, other in zip(without, tested, strict=True):
        assert TEST_EPOCH not in one.metrics
        own = without_costs(other.metrics)
        assert {
            name: value for name, value in own.items() if name not in (TEST_EPOCH, TEST_HIGHEST)
        } == without_costs(one.metrics)


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_highest_accuracy_includes_epochs_before_a_resume(
    specify: Specify, epochs: int
) -> None:
    whole = records_of(specify(*SMALL, EACH, folder="whole"))[-1].metrics
    spec = specify(*SMALL, EACH, folder="resumed")
    records_of(spec, dies_after=epochs)
    resumed = records_of(spec)[-1].metrics
    assert resumed[TEST_HIGHEST] == whole[TEST_HIGHEST]
    assert resumed[TEST_EPOCH] == whole[TEST_EPOCH]


def test_students_of_a_trial_have_their_own_test_accuracies(specify: Specify) -> None:
    pairs = [pair for pair in SMALL if not pair.startswith("method.")]
    records = records_of(
        specify(*pairs, EACH, "method.name=dml", "peers.b.network={name: mlp, width: 4}")
    )
    for name in ("a/", "b/", ""):
        tested = [record.metrics[f"{name}{TEST_EPOCH}"] for record in records]
        assert records[-1].metrics[f"{name}{TEST_HIGHEST}"] == max(tested)
