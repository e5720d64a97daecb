"""Test trials with sample weights in one process: time, source, bit-identical resumes."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from trials_run import Interrupted, add_teacher, records_of, saved, specification

from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import TrialError
from orchestrator.core.reports import EpochRecord
from orchestrator.data.dataset import Dataset
from orchestrator.training._trainer import train
from orchestrator.training.capabilities import _student_weights as sample_weights
from orchestrator.training.sample_weighting import SampleWeighting, Snapshot, compute_sample_weights
from tests.refusal import refused

SMALL = (
    "method.name=kd_aif",
    "data.limit.train=160",
    "data.limit.validation=60",
    "data.limit.test=40",
    "data.label_noise=0.25",
    "data.augmentation=crop",
    "data.views=2",
    "training.batch_size=32",
    "training.epochs=6",
    "student.width=8",
    "method.warmup=0.2",
)
FEW = ("data.labelled=60", "data.label_noise=0", "method.update=ssl")
FORMS: dict[str, tuple[str, ...]] = {
    "iterative": (),
    "waiting": ("method.lag=0", "method.every=1"),
    "two-behind": ("method.lag=2", "method.every=3"),
    "static": ("method.update=static",),
    "both": ("method.update=both", "method.teacher_learning_rate=0.1"),
    "both-online": ("method.update=both", "data.views=6"),
    "teacher-only": ("method.update=teacher_only",),
    "ssl": FEW,
    "ssl-hard": (*FEW, "method.pseudo=hard", "method.threshold=0.2"),
    "ssl-feedback": (*FEW, "method.feedback=1.0"),
    "whole-network": ("method.estimator=cg", "method.damping=0.1"),
}
TIMED = (
    "seconds/",
    "train/images_per_second",
    "cache/",
    "influence/seconds",
    "influence/cpu_seconds",
    "influence/waited",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weighed")
    add_teacher(specification(folder, "teacher", *SMALL))
    return folder


@pytest.fixture
def weighed(root: Path, request: pytest.FixtureRequest) -> Callable[..., TrialSpec]:
    def make(form: str, *pairs: str, name: str = "") -> TrialSpec:
        return specification(
            root, f"{request.node.name}-{name}".replace("/", "-"), *SMALL, *FORMS[form], *pairs
        )

    return make


def metrics(record: EpochRecord) -> dict[str, float]:
    return {key: value for key, value in record.metrics.items() if not key.startswith(TIMED)}


def state(spec: TrialSpec) -> dict[str, Tensor]:
    """Return every tensor in the trial's checkpoint, by file and name."""
    files = sorted((spec.folder / "checkpoint").glob("*.safetensors"))
    return {
        f"{file.name}/{name}": value for file in files for name, value in load_file(file).items()
    }


def require_same(one: TrialSpec, other: TrialSpec) -> None:
    first, second = state(one), state(other)
    assert list(first) == list(second)
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=0, atol=0, equal_nan=True, msg=name)


def weights_of(spec: TrialSpec) -> torch.Tensor:
    """Return the sample weights in the checkpoint of the first student."""
    return saved(spec).components["weights"].tensors["weights"]


@pytest.mark.parametrize("form", FORMS)
def test_resume_with_sample_weights_is_bit_identical(
    weighed: Callable[..., TrialSpec], form: str
) -> None:
    """Weights are requested after epochs 1, 3, ..., and static restarts after 3.

    Every schedule is interrupted after each of these epochs. Other forms are interrupted once, with
    weights in force and requested.
    """
    whole = weighed(form, name="whole")
    expected = [metrics(record) for record in records_of(whole)]
    for dies_after in (
        (1, 2, 3) if form in ("iterative", "waiting", "two-behind", "static") else (3,)
    ):
        broken = weighed(form, name=f"broken-{dies_after}")
        before = records_of(broken, dies_after=dies_after)
        after = records_of(broken)
        assert [metrics(record) for record in (*before, *after[1:])] == expected
        require_same(whole, broken)


@pytest.mark.parametrize(
    ("form", "in_force"),
    [("waiting", 1), ("iterative", 2), ("two-behind", 3), ("static", 3)],
    ids=lambda value: str(value),
)
def test_weights_count_when_their_time_has_come(
    weighed: Callable[..., TrialSpec], form: str, in_force: int
) -> None:
    """First request after epoch 1 (static: 3); the weights take effect `lag` epochs later."""
    spec = weighed(form)
    records = records_of(spec)
    spread = [record.metrics["influence/weight_std"] for record in records]
    assert [value > 0 for value in spread] == [epoch > in_force for epoch in range(1, 7)]
    drawn = saved(spec).trace
    histogram = drawn["epochs/weight_histogram"]
    assert histogram.shape[0] == 6 and torch.allclose(histogram.sum(1), torch.ones(6))
    assert (histogram[:in_force].max(1).values == 1).all() and (
        histogram[in_force:].max(1).values < 1
    ).all()
    assert drawn["epochs/weight_noisy"].tolist() == pytest.approx(
        [each.metrics["influence/weight_noisy"] for each in records]
    )


def test_samples_with_wrong_labels_count_less(weighed: Callable[..., TrialSpec]) -> None:
    spec = weighed("iterative")
    last = records_of(spec)[-1].metrics
    assert last["influence/weight_noisy"] < 0.9 < 1 < last["influence/weight_clean"]
    dataset, left = Dataset.open(spec.data), saved(spec).components["weights"].tensors
    wrong = torch.from_numpy(dataset.train.labels != dataset.clean_labels)
    assert wrong.sum() == 40
    assert float(left["weights"][wrong].mean()) == pytest.approx(last["influence/weight_noisy"])
    assert float(left["weights"].mean()) == pytest.approx(1)


def test_most_harmful_and_helpful_samples_are_shown(weighed: Callable[..., TrialSpec]) -> None:
    spec = weighed("iterative")
    auc = [each.metrics.get("influence/auc_noisy") for each in records_of(spec)]
    left, dataset = saved(spec), Dataset.open(spec.data)
    scores, shown = left.components["weights"].tensors["scores"], left.shown
    assert shown["harmful_scores"].tolist() == scores.sort(descending=True).values[:8].tolist()
    assert shown["helpful_scores"].tolist() == scores.sort().values[:8].tolist()
    index = shown["harmful"].numpy()
    assert shown["harmful_images"].numpy().tobytes() == dataset.train.inputs[index].tobytes()
    assert shown["harmful_labels"].tolist() == dataset.train.labels[index].tolist()
    assert shown["harmful_truths"].tolist() == dataset.clean_labels[index].tolist()
    wrong = dataset.train.labels != dataset.clean_labels
    pairs = [
        (scores[i] > scores[j]).float() for i in wrong.nonzero()[0] for j in (~wrong).nonzero()[0]
    ]
    assert [each for each in auc if each is not None][-1] == pytest.approx(
        float(torch.stack(pairs).mean())
    )


def test_static_student_restarts(
    weighed: Callable[..., TrialSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With equal weights, the second half of eight epochs does not depend on the first."""

    def equal(
        snapshot: Snapshot, device: torch.device, heartbeat: Callable[[], None]
    ) -> SampleWeighting:
        return SampleWeighting(torch.ones_like(snapshot.weights), -snapshot.weights, {}, {}, {})

    monkeypatch.setattr(sample_weights, "compute_sample_weights", equal)
    eight = ("training.epochs=8", "data.views=1")
    records = records_of(weighed("static", *eight, name="one"))
    rates = [record.metrics["train/learning_rate"] for record in records]
    assert rates[:4] == pytest.approx(rates[4:]) and rates[0] > rates[3]
    assert records[-1].metrics["best_epoch"] > 4
    fresh = saved(weighed("static", *eight, name="one"))
    half = weighed("static", *eight, name="half")
    with pytest.raises(Interrupted):
        train(half, TrialContext(report=_dies_after(4)))
    damaged = half.folder / "checkpoint" / "student.safetensors"
    _overwrite(damaged)  # regardless of its training
    records_of(half)
    assert all(value.equal(fresh.student[name]) for name, value in saved(half).student.items())


def _dies_after(epoch: int) -> Callable[[Any], None]:
    def report(record: Any) -> None:
        if record.epoch == epoch:
            raise Interrupted

    return report


def _overwrite(file: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: torch.zeros_like(value) for name, value in load_file(file).items()}, file)


@pytest.mark.parametrize("form", ["both", "both-online", "ssl-feedback", "teacher-only"])
def test_updated_teacher_belongs_to_the_trial_alone(
    weighed: Callable[..., TrialSpec], form: str
) -> None:
    spec = weighed(form)
    assert spec.teacher is not None
    stored = load_file(spec.teacher / "weights.safetensors")
    records = records_of(spec)
    own = saved(spec).components["teacher"].tensors
    assert set(own) == set(stored) and any(not own[name].equal(stored[name]) for name in own)
    assert all(
        value.equal(load_file(spec.teacher / "weights.safetensors")[name])
        for name, value in stored.items()
    )
    accuracies = [record.metrics.get("influence/teacher_accuracy") for record in records]
    assert [value is not None for value in accuracies] == [epoch in (2, 4) for epoch in range(1, 7)]
    other = weighed("iterative", name="after")
    records_of(other)
    assert "teacher" not in saved(other).components  # the shared teacher is unchanged


def test_student_uses_the_updated_teacher(weighed: Callable[..., TrialSpec]) -> None:
    """`teacher_only` changes nothing for the student but the teacher's weights."""
    taught, plain = (
        weighed("teacher-only", "method.teacher_learning_rate=0.3", name="taught"),
        weighed("iterative", name="plain"),
    )
    same = weighed("teacher-only", "method.teacher_learning_rate=1e-9", name="same")
    taught_records, same_records = records_of(taught), records_of(same)
    kd = plain.model_copy(
        update={
            "configuration": specification(
                taught.folder.parent, "kd", *SMALL[1:-1], "method.name=kd"
            ).configuration
        }
    )
    unweighted = records_of(kd)
    losses = [
        [record.metrics["train/distillation"] for record in each]
        for each in (taught_records, same_records, unweighted)
    ]
    assert losses[1] == pytest.approx(losses[2], rel=1e-4)
    assert losses[0][:2] == pytest.approx(losses[2][:2], rel=1e-4) and losses[0][
        3
    ] != pytest.approx(losses[2][3], rel=1e-2)


class Helper:
    """An influence client in this process that returns at once, never (`late`), or fails."""

    def __init__(self, late: bool = False, fails: str = "") -> None:
        self.late, self.fails = late, fails
        self.jobs: list[Snapshot] = []
        self.dropped = 0

    def send(self, job: Any) -> None:
        self.jobs.append(job)

    def receive(self, wait_s: float, heartbeat: Callable[[], None]) -> Any:
        heartbeat()
        if self.fails:
            raise TrialError(self.fails).with_details("method", "sent")
        return None if self.late else compute_sample_weights(self.jobs[-1], torch.device("cpu"))

    def drop(self) -> None:
        self.dropped += 1

    def notes(self) -> list[str]:
        return [f"sent {len(self.jobs)}"] if self.jobs else []


def with_helper(spec: TrialSpec, helper: Helper) -> list[EpochRecord]:
    records: list[Any] = []
    train(spec, TrialContext(report=records.append, influence_client=lambda: helper))
    return records


@pytest.mark.parametrize(
    ("form", "late"),
    [
        *((form, False) for form in ("iterative", "waiting", "both", "ssl")),
        ("iterative", True),
        ("waiting", True),
    ],
)
def test_influence_client_gives_the_weights_of_the_trainer(
    weighed: Callable[..., TrialSpec], form: str, late: bool
) -> None:
    inline, external, helper = (
        weighed(form, name="inline"),
        weighed(form, name="external"),
        Helper(late=late),
    )
    expected, found = records_of(inline), with_helper(external, helper)
    assert [metrics(each) for each in found] == [metrics(each) for each in expected]
    require_same(inline, external)
    assert len(helper.jobs) == (5 if form == "waiting" else 2)
    assert {job.epoch for job in helper.jobs} == ({1, 2, 3, 4, 5} if form == "waiting" else {1, 3})
    notes = [note for record in found for note in record.notes]
    assert (
        any("were not received; the trial's worker computed them instead" in note for note in notes)
        == late
    )
    assert helper.dropped == (len(helper.jobs) if late else 0)
    assert notes[-1] == f"sent {len(helper.jobs)}"


def test_error_of_the_influence_client_fails_the_trial(weighed: Callable[..., TrialSpec]) -> None:
    with refused("method", "sent", error=TrialError):
        with_helper(weighed("iterative"), Helper(fails="the error of the actor"))


def test_stop_request_interrupts_the_wait_for_weights(weighed: Callable[..., TrialSpec]) -> None:
    spec, records, helper = weighed("iterative"), list[Any](), Helper()
    context = TrialContext(
        report=records.append,
        influence_client=lambda: helper,
        stop_requested=lambda: len(helper.jobs) == 1 and len(records) == 1,
    )
    helper.fails = "the wait was not interrupted"
    helper.receive = wait_for_ever  # type: ignore[method-assign]
    train(spec, context)
    assert [record.epoch for record in records] == [1]
    assert [record.epoch for record in records_of(spec)] == [1, 2, 3, 4, 5, 6]


def wait_for_ever(wait_s: float, heartbeat: Callable[[], None]) -> None:
    while True:
        heartbeat()


def test_notes_on_the_weights_are_in_the_record(weighed: Callable[..., TrialSpec]) -> None:
    records = records_of(weighed("ssl-hard", "method.threshold=1.0"))
    assert [bool(record.notes) for record in records] == [epoch in (2, 4) for epoch in range(1, 7)]
    assert "after epoch 1: no samples are weighted" in records[1].notes[0]
    assert all(record.metrics["influence/weight_std"] == 0 for record in records)


def test_divergence_of_the_estimator_raises_a_trial_error(
    weighed: Callable[..., TrialSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverged(*_: Any, **__: Any) -> Any:
        raise ArithmeticError("choose a larger damping")

    monkeypatch.setattr("methods.influence.scores", diverged)
    with pytest.raises(TrialError, match=r"epoch 1: choose a larger damping") as refusal:
        records_of(weighed("iterative"))
    assert refusal.value.field == "method"


def test_pending_snapshot_is_sent_again_after_a_resume(weighed: Callable[..., TrialSpec]) -> None:
    spec, first, second = weighed("two-behind"), Helper(), Helper()
    with pytest.raises(Interrupted):
        train(spec, TrialContext(report=_dies_after(2), influence_client=lambda: first))
    with_helper(spec, second)
    again = second.jobs[0]
    assert first.jobs[0].epoch == again.epoch == 1
    assert all(value.equal(again.student[name]) for name, value in first.jobs[0].student.items())
    assert replace(again, student={}).before == first.jobs[0].before


def test_colocated_students_have_separate_weights(weighed: Callable[..., TrialSpec]) -> None:
    spec = weighed("iterative", "peers.b.network.name=cnn", "peers.b.network.width=4")
    last = records_of(spec)[-1].metrics
    assert last["a/influence/weight_noisy"] != last["b/influence/weight_noisy"]
    alone = weighed("iterative", name="alone")
    records_of(alone)
    assert weights_of(spec).equal(weights_of(alone))
    own = load_file(spec.folder / "checkpoint" / "b" / "weights.safetensors")
    assert not own["weights"].equal(weights_of(alone))
    assert math.isclose(float(own["weights"].mean()), 1, rel_tol=1e-5)
