"""Test the data of a trial's figures: step means, epoch rows, and the final student's samples."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trials_run import records_of

from orchestrator.config.data_schema import Data
from orchestrator.config.trial import CHECKPOINT, TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.views import Views
from orchestrator.models.build import build
from orchestrator.training._trace import POINTS, Trace
from orchestrator.training._trainer import train
from orchestrator.training.capabilities import plots as sample_predictions
from orchestrator.training.capabilities.plots import NUM_SAMPLES

EPOCHS = 3
SMALL = (
    "data.limit.train=128",
    "data.limit.validation=40",
    "data.limit.test=40",
    "data.augmentation=none",
)
RECIPE = (
    f"training.epochs={EPOCHS}",
    "training.batch_size=16",
    "student.name=mlp",
    "student.width=8",
)
AKD = (*SMALL, *RECIPE, "method.name=akd", "method.alpha_gap=label")
CAM = (
    *AKD,
    "method.cam=true",
    "method.cam_width=8",
    "method.cam_heads=2",
    "method.cam_learning_rate=0.5",
)

Specify = Callable[..., TrialSpec]
MakeTeacher = Callable[..., Path]


def load_figure_data(spec: TrialSpec, name: str) -> dict[str, torch.Tensor]:
    return load_file(spec.folder / CHECKPOINT / f"{name}.safetensors")


def test_a_term_may_belong_to_some_steps_only() -> None:
    trace = Trace()
    for step in range(5):
        terms = {"loss": torch.tensor(float(step))}
        trace.step(terms | ({"odd": torch.tensor(10.0 * step)} if step % 2 else {}))
    assert {name: float(value) for name, value in trace.sums().items()} == {"loss": 10, "odd": 40}
    trace.end_epoch(0, {})
    assert trace.state["steps/loss"].tolist() == [0, 1, 2, 3, 4]
    assert trace.state["steps/odd"].tolist() == [10, 30]


def test_rows_are_copies_of_the_arrays_of_a_method() -> None:
    trace, counts = Trace(), torch.zeros(2)
    trace.end_epoch(0, {"counts": counts, "again": counts})
    counts += 1  # as in the next epoch
    assert not trace.state["epochs/counts"].any()
    assert len({value.data_ptr() for value in trace.state.values()}) == 2


@pytest.mark.parametrize("steps", [1, 5, POINTS - 1, POINTS, POINTS + 1, 3 * POINTS, 1000])
def test_thinning_keeps_the_mean_and_the_order(steps: int) -> None:
    trace, values = Trace(), torch.randn(steps, generator=torch.Generator().manual_seed(0))
    for value in values:
        trace.step({"loss": value})
    assert trace.sums()["loss"].item() == pytest.approx(values.double().sum().item(), abs=1e-3)
    trace.end_epoch(0, {})
    kept = trace.state["steps/loss"]
    sizes = [len(chunk) for chunk in torch.arange(steps).tensor_split(min(POINTS, steps))]
    assert len(kept) == min(POINTS, steps) and max(sizes) - min(sizes) <= 1
    assert (kept * torch.tensor(sizes)).sum() / steps == pytest.approx(
        values.mean().item(), abs=1e-5
    )
    assert kept[0] == pytest.approx(values[: sizes[0]].mean().item(), abs=1e-6)
    assert kept[-1] == pytest.approx(values[-sizes[-1] :].mean().item(), abs=1e-6)


def test_trace_points_lie_within_their_epochs() -> None:
    trace = Trace()
    for epoch in range(3):
        for step in range(4):
            trace.step({"loss": torch.tensor(float(step)), "alpha": torch.tensor(0.5)})
        trace.end_epoch(epoch, {"row": torch.full((2, 3), float(epoch))})
    assert set(trace.state) == {"steps/epoch", "steps/loss", "steps/alpha", "epochs/row"}
    assert trace.state["steps/epoch"].tolist() == [
        epoch + (point + 0.5) / 4 for epoch in range(3) for point in range(4)
    ]
    assert trace.state["steps/loss"].tolist() == [0, 1, 2, 3] * 3
    assert trace.state["epochs/row"].shape == (3, 2, 3) and trace.state["epochs/row"][
        :, 0, 0
    ].tolist() == [0, 1, 2]


def test_trace_does_not_change_its_initial_state() -> None:
    initial_state = {"steps/loss": torch.ones(2)}
    trace = Trace(initial_state)
    trace.step({"loss": torch.tensor(3.0)})
    trace.end_epoch(1, {"row": torch.zeros(2)})
    assert set(initial_state) == {"steps/loss"} and len(initial_state["steps/loss"]) == 2


def test_the_trace_of_a_trial_has_the_means_of_its_records(distil: Specify) -> None:
    spec = distil(*CAM)
    records = records_of(spec)
    trace = load_figure_data(spec, "trace")
    names = ("loss", "cross_entropy", "distillation", "alpha", "cam")
    assert set(trace) == {
        "steps/epoch",
        "epochs/alpha_histogram",
        "epochs/class_accuracy",
        *(f"steps/{name}" for name in names),
    }
    assert len(trace["steps/epoch"]) == 8 * EPOCHS, "128 samples are 8 batches of 16"
    for name in names:
        assert len(trace[f"steps/{name}"]) == 8 * EPOCHS
        means = trace[f"steps/{name}"].reshape(EPOCHS, 8).mean(1).tolist()
        assert means == pytest.approx(
            [record.metrics[f"train/{name}"] for record in records], rel=1e-5
        )
    assert trace["epochs/alpha_histogram"].shape[0] == EPOCHS
    torch.testing.assert_close(trace["epochs/alpha_histogram"].sum(1), torch.ones(EPOCHS))


@pytest.mark.parametrize("epoch", [1, 2])
def test_trace_continues_after_a_resume(distil: Specify, epoch: int) -> None:
    whole, broken = (distil(*CAM, folder=folder) for folder in ("whole", "broken"))
    records_of(whole)
    records_of(broken, dies_after=epoch)
    assert len(load_figure_data(broken, "trace")["steps/loss"]) == 8 * epoch
    records_of(broken)
    for name in ("trace", "shown"):
        expected, found = load_figure_data(whole, name), load_figure_data(broken, name)
        assert set(found) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=0, atol=0, equal_nan=True)


def test_trace_omits_the_steps_of_an_interrupted_epoch(distil: Specify) -> None:
    whole, broken = (
        distil(*AKD, "training.batch_size=4", folder=folder) for folder in ("whole", "broken")
    )
    records_of(whole)
    # 32 steps an epoch are two stop queries: the middle of the second epoch
    stop_requests = iter([False] * 3 + [True])
    train(broken, TrialContext(stop_requested=lambda: next(stop_requests)))
    assert len(load_figure_data(broken, "trace")["steps/loss"]) == 32
    records_of(broken)
    expected = load_figure_data(whole, "trace")
    for key, value in load_figure_data(broken, "trace").items():
        assert torch.equal(value, expected[key]), key


def test_the_accuracy_in_each_class_has_a_row_for_every_epoch(specify: Specify) -> None:
    spec = specify(*SMALL, *RECIPE, "method.name=cross_entropy", "teacher=null")
    records, dataset = records_of(spec), Dataset.open(spec.data)
    rows = load_figure_data(spec, "trace")["epochs/class_accuracy"]
    student = build("mlp", len(dataset.classes), dataset.shape, {"width": 8}).eval()
    student.load_state_dict(load_figure_data(spec, "student"))
    (whole,) = Batches(
        dataset, Views.from_config(dataset, Data(), 0), len(dataset.train), 0
    ).iterate_in_order("validation")
    right = student(whole.inputs).logits.argmax(dim=1) == whole.labels
    last = [
        right[whole.labels == label].double().mean().item() for label in range(len(dataset.classes))
    ]
    assert rows.shape == (EPOCHS, 10) and rows[-1].tolist() == pytest.approx(last)
    for row, record in zip(rows, records, strict=True):
        metrics = record.metrics
        assert metrics["validation/worst_class_accuracy"] == pytest.approx(row.min().item())
        assert metrics["validation/class_gap"] == pytest.approx((row.max() - row.min()).item())


def test_finished_student_shows_distributions_and_class_weights(distil: Specify) -> None:
    spec = distil(*CAM)
    records_of(spec)
    shown = load_figure_data(spec, "shown")
    assert set(shown) == {"labels", "teacher", "student", "reweighted", "class_weights"}
    labels = torch.as_tensor(Dataset.open(spec.data).validation.labels)
    assert torch.equal(shown["labels"], labels[:NUM_SAMPLES])
    for name in ("teacher", "student", "reweighted"):
        assert shown[name].shape == (NUM_SAMPLES, 10) and (shown[name] >= 0).all()
        torch.testing.assert_close(shown[name].sum(1), torch.ones(NUM_SAMPLES))
    assert not torch.allclose(shown["reweighted"], shown["teacher"], rtol=0, atol=1e-6), (
        "the module has learned"
    )
    rows = shown["class_weights"]
    present = torch.bincount(labels, minlength=10) > 0
    assert rows.shape == (10, 10) and torch.equal(rows.isfinite().all(1), present)
    torch.testing.assert_close(rows[present].mean(1), torch.ones(int(present.sum())))
    assert (rows[present] > 0).all() and rows[present].std() > 1e-5


def test_shown_distributions_are_those_of_the_saved_student(distil: Specify) -> None:
    spec = distil(
        *SMALL,
        "training.epochs=2",
        "training.batch_size=32",
        "student.name=cnn",
        "student.width=4",
        "method.name=akd",
    )
    records_of(spec)
    dataset = Dataset.open(spec.data)
    student = build("cnn", len(dataset.classes), dataset.shape, {"width": 4}).eval()
    student.load_state_dict(load_figure_data(spec, "student"))
    (whole,) = Batches(
        dataset, Views.from_config(dataset, Data(), 0), len(dataset.train), 0
    ).iterate_in_order("validation")
    with torch.no_grad():
        student_probabilities = (student(whole.inputs).logits / 4).softmax(1)
    torch.testing.assert_close(
        load_figure_data(spec, "shown")["student"],
        student_probabilities[:NUM_SAMPLES],
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_class_without_a_sample_has_a_row_of_nan(
    distil: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer evaluated samples than classes: six, evenly spaced over the part."""
    monkeypatch.setattr(sample_predictions, "MAX_WEIGHT_SAMPLES", 6)
    spec = distil(*CAM)
    records_of(spec)
    labels = torch.as_tensor(Dataset.open(spec.data).validation.labels)[[0, 7, 15, 23, 31, 39]]
    present = torch.bincount(labels, minlength=10) > 0
    assert not present.all()
    rows = load_figure_data(spec, "shown")["class_weights"]
    assert rows[~present].isnan().all() and rows[present].isfinite().all()


def test_class_weights_are_absent_without_the_module(distil: Specify, specify: Specify) -> None:
    spec = distil(*AKD)
    records_of(spec)
    assert set(load_figure_data(spec, "shown")) == {"labels", "teacher", "student"}
    alone = specify(*SMALL, *RECIPE, "method.name=cross_entropy", "teacher=null", folder="alone")
    records_of(alone)
    assert set(load_figure_data(alone, "shown")) == {"labels", "student"}


def test_nothing_is_shown_before_the_end(distil: Specify) -> None:
    spec = distil(*CAM)
    records_of(spec, dies_after=2)
    assert (
        not (spec.folder / CHECKPOINT / "shown.safetensors").exists()
        and (spec.folder / CHECKPOINT / "trace.safetensors").exists()
    )
