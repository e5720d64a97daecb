"""Test a trial's training in one process: repeatable, bit-identical resumes, bounded."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from trials_run import records_of, saved

from methods import Batch, Method, Objective, Settings
from orchestrator.config.data_schema import Data
from orchestrator.config.trial import CHECKPOINT, TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import TrialError
from orchestrator.core.reports import EpochRecord
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.passes import Inputs
from orchestrator.data.views import Views
from orchestrator.models.build import build
from orchestrator.teacher.outputs import CachedTeacher
from orchestrator.training import _student as student
from orchestrator.training import _trainer as trainer
from orchestrator.training._distillation_module import DistillationModule, replicate
from orchestrator.training._evaluation import Evaluation, evaluate
from orchestrator.training._trainer import STOP_CHECK_STEPS, train
from orchestrator.training.checkpoint import Checkpoint
from tests.refusal import refused

CPU = torch.device("cpu")
EPOCHS = 4
SMALL = (
    "data.limit.train=256",
    "data.limit.validation=60",
    "data.limit.test=60",
    "data.augmentation=crop",
    "data.views=3",
)
RECIPE = (f"training.epochs={EPOCHS}", "training.batch_size=32")
DISTIL = (*SMALL, *RECIPE, "student.name=cnn", "student.width=4", "method.name=kd")
PLAIN = (
    *SMALL,
    *RECIPE,
    "student.name=mlp",
    "student.width=8",
    "method.name=cross_entropy",
    "teacher=null",
)
ADAMW = ("training.optimizer=adamw", "training.learning_rate=0.003")

Specify = Callable[..., TrialSpec]
MakeTeacher = Callable[..., Path]
Part = Literal["validation", "test"]


def without_time(records: list[EpochRecord]) -> list[EpochRecord]:
    quiet = []
    for record in records:
        kept = {
            k: v
            for k, v in record.metrics.items()
            if not k.startswith(("seconds/", "train/images_per_second", "cache/"))
        }
        quiet.append(replace(record, metrics=kept, behind=False))
    return quiet


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    inner = (
        [value[key] for key in sorted(value, key=str)]
        if isinstance(value, dict)
        else value
        if isinstance(value, list)
        else []
    )
    return [tensor for item in inner for tensor in tensors(item)]


def assert_same_bits(one: Checkpoint, other: Checkpoint) -> None:
    for name in ("student", "best", "method", "optimizer"):
        pairs = list(zip(tensors(getattr(one, name)), tensors(getattr(other, name)), strict=True))
        assert all(torch.equal(mine, yours) for mine, yours in pairs), name
    assert tensors(one.optimizer), "the optimizer has a state"
    assert one.progress.best_epoch == other.progress.best_epoch


def predictions(
    spec: TrialSpec, name: str, settings: dict[str, Any], state: dict[str, Tensor], part: Part
) -> Tensor:
    """Return the classes that a network predicts with these weights for a part, in one batch."""
    dataset = Dataset.open(spec.data)
    network = build(name, len(dataset.classes), dataset.shape, settings)
    network.load_state_dict(state)
    (whole,) = Batches(
        dataset, Views.from_config(dataset, Data(), 0), len(dataset.train), 0
    ).iterate_in_order(part)
    classes: Tensor = network.eval()(whole.inputs).logits.argmax(dim=1)
    return classes


def quality(spec: TrialSpec, state: dict[str, Tensor], part: Part) -> tuple[float, Tensor]:
    """Return accuracy and predicted classes of a student with these weights."""
    chosen = spec.configuration.student
    predicted = predictions(spec, chosen.name, chosen.settings, state, part)
    labels = torch.as_tensor(Dataset.open(spec.data).split(part).labels)
    return (predicted == labels).double().mean().item(), predicted


@pytest.fixture
def initial(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Return the initial weights of each training."""
    initial_weights: list[dict[str, Tensor]] = []

    def recording_replicate(module: DistillationModule, context: TrialContext) -> torch.nn.Module:
        initial_weights.append(
            {key: value.detach().clone() for key, value in module.student.state_dict().items()}
        )
        return replicate(module, context)

    monkeypatch.setattr(student, "replicate", recording_replicate)
    return initial_weights


@pytest.mark.parametrize(
    ("optimizer", "epochs"),
    [(("training.optimizer=sgd",), range(1, EPOCHS + 1)), (ADAMW, (2,))],
    ids=["sgd", "adamw"],
)
def test_resume_is_bit_identical(
    specify: Specify, make_teacher: MakeTeacher, optimizer: tuple[str, ...], epochs: Sequence[int]
) -> None:
    """All orders of interruptions and optimizers are compared with one uninterrupted trial."""
    whole = specify(*DISTIL, *optimizer, folder="whole")
    teacher = make_teacher(whole.data, width=32)
    whole = whole.model_copy(update={"teacher": teacher})
    expected = without_time(records_of(whole))
    for epoch in epochs:
        broken = specify(*DISTIL, *optimizer, folder=f"broken-{epoch}").model_copy(
            update={"teacher": teacher}
        )
        before = without_time(records_of(broken, dies_after=epoch))
        after = without_time(records_of(broken))
        assert before == expected[:epoch]
        assert after == expected[epoch - 1 :], (
            "the last finished epoch is reported again, then the missing ones"
        )
        assert_same_bits(saved(broken), saved(whole))


@pytest.mark.parametrize("known", range(4))
def test_resume_resends_unacknowledged_records(specify: Specify, known: int) -> None:
    whole, broken = (specify(*PLAIN, folder=folder) for folder in ("whole", "broken"))
    expected = without_time(records_of(whole))
    before = records_of(broken, dies_after=3)
    after = records_of(broken.model_copy(update={"known": known}))
    missed = 3 - min(known, 2)  # if all were received, the last epoch is reported again
    assert [record.behind for record in after] == [True] * (missed - 1) + [False] * (EPOCHS - 2)
    assert [replace(each, behind=False) for each in after[:missed]] == before[3 - missed :], (
        "as it was reported before, with the same seconds"
    )
    assert without_time(after) == expected[3 - missed :]
    assert [record.epoch for record in saved(broken).progress.records] == [1, 2, 3, 4]


def test_resume_with_dropout_and_clipping_is_bit_identical(specify: Specify) -> None:
    pairs = (
        *PLAIN,
        "student.dropout=0.3",
        "training.gradient_clip=0.5",
        "training.warmup_epochs=1.5",
    )
    whole, broken = (specify(*pairs, folder=folder) for folder in ("whole", "broken"))
    records_of(whole)
    records_of(broken, dies_after=2)
    records_of(broken)
    assert_same_bits(saved(broken), saved(whole))


def test_interrupted_epoch_is_repeated(specify: Specify) -> None:
    whole, broken = (
        specify(*PLAIN, "training.batch_size=8", folder=folder) for folder in ("whole", "broken")
    )
    records_of(whole)
    records: list[Any] = []
    # 32 steps an epoch are two stop queries: the middle of the third epoch
    stop_requests = iter([False] * 5 + [True])
    train(broken, TrialContext(report=records.append, stop_requested=lambda: next(stop_requests)))
    assert [record.epoch for record in records] == [1, 2]
    records_of(broken)
    assert_same_bits(saved(broken), saved(whole))


def test_seed_determines_the_trial(specify: Specify) -> None:
    specs = [
        specify(*PLAIN, f"seed={seed}", folder=folder)
        for seed, folder in ((3, "one"), (3, "two"), (4, "three"))
    ]
    one, two, three = (without_time(records_of(spec)) for spec in specs)
    assert one == two and one != three
    assert_same_bits(saved(specs[0]), saved(specs[1]))
    assert not torch.equal(
        saved(specs[0]).student["head.weight"], saved(specs[2]).student["head.weight"]
    )


@pytest.mark.parametrize("num_checks", [0, 1, 3])
def test_stop_request_is_honoured_within_some_steps(
    specify: Specify, monkeypatch: pytest.MonkeyPatch, num_checks: int
) -> None:
    spec = specify(*PLAIN, "training.batch_size=4", "training.epochs=1")  # 64 steps
    steps, stop_requests = [0], [0]
    original = trainer._Trainer._step

    def counted(self: Any, *arguments: Any) -> None:
        steps[0] += 1
        original(self, *arguments)

    def stop_requested() -> bool:
        stop_requests[0] += 1
        return stop_requests[0] > num_checks

    monkeypatch.setattr(trainer._Trainer, "_step", counted)
    records: list[Any] = []
    train(spec, TrialContext(report=records.append, stop_requested=stop_requested))
    assert steps[0] == num_checks * STOP_CHECK_STEPS
    assert not records and not (spec.folder / CHECKPOINT).exists()


def test_trial_restarts_if_its_only_checkpoint_is_damaged(specify: Specify) -> None:
    whole, broken = (specify(*PLAIN, folder=folder) for folder in ("whole", "broken"))
    expected = without_time(records_of(whole))
    records_of(broken, dies_after=2)
    file = broken.folder / CHECKPOINT / "student.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert without_time(records_of(broken)) == expected
    assert_same_bits(saved(broken), saved(whole))


def test_damaged_checkpoint_is_replaced_by_the_older_one(specify: Specify) -> None:
    whole, broken = (specify(*PLAIN, folder=folder) for folder in ("whole", "broken"))
    expected = without_time(records_of(whole))
    records_of(broken, dies_after=1)
    shutil.copytree(broken.folder / CHECKPOINT, broken.folder / "kept")
    records_of(broken, dies_after=2)
    (broken.folder / "kept").rename(broken.folder / f"{CHECKPOINT}.old")
    (broken.folder / CHECKPOINT / "optimizer.pt").write_bytes(b"")
    assert without_time(records_of(broken)) == expected
    assert_same_bits(saved(broken), saved(whole))


def test_a_checkpoint_holds_the_student_and_no_teacher(
    specify: Specify, make_teacher: MakeTeacher
) -> None:
    spec = specify(*DISTIL, "training.epochs=1")
    spec = spec.model_copy(update={"teacher": make_teacher(spec.data, width=400)})
    records_of(spec)
    folder = spec.folder / CHECKPOINT
    assert {file.name for file in folder.iterdir()} == {
        *("student.safetensors", "best.safetensors", "optimizer.pt", "progress.json"),
        *("trace.safetensors", "shown.safetensors"),
    }
    dataset = Dataset.open(spec.data)
    student = build("cnn", len(dataset.classes), dataset.shape, {"width": 4}).state_dict()
    assert {key: value.shape for key, value in saved(spec).student.items()} == {
        k: v.shape for k, v in student.items()
    }
    torch.load(folder / "optimizer.pt", weights_only=True)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4 * 400 * 400, (
        "smaller than one layer of the teacher"
    )


@pytest.mark.parametrize(
    "pairs",
    [("training.learning_rate=1e10",), ("training.learning_rate=1e30", "training.batch_size=256")],
)
def test_divergence_raises_a_trial_error(specify: Specify, pairs: tuple[str, ...]) -> None:
    records: list[Any] = []
    spec = specify(*PLAIN, "training.epochs=9", *pairs)
    with refused(
        "training.learning_rate", spec.configuration.training.learning_rate, error=TrialError
    ) as raised:
        train(spec, TrialContext(report=records.append))
    assert "\n" not in str(raised.value)
    assert not any(record.done for record in records)


def test_divergence_error_of_a_teacher_names_its_recipe(specify: Specify) -> None:
    spec = specify(*PLAIN, "training.epochs=9", "training.learning_rate=1e30").model_copy(
        update={"role": "teacher"}
    )
    with refused("teacher.training.learning_rate", 1e30, error=TrialError) as raised:
        train(spec, TrialContext())
    assert "teacher.training.gradient_clip" in str(raised.value)


def test_records_hold_the_documented_metrics(specify: Specify, make_teacher: MakeTeacher) -> None:
    spec = specify(*DISTIL)
    spec = spec.model_copy(update={"teacher": make_teacher(spec.data, width=32)})
    records = records_of(spec)
    scores = ("accuracy", "worst_class_accuracy", "class_gap", "nll", "ece", "entropy")
    train_names = (
        "loss",
        "cross_entropy",
        "distillation",
        "alpha",
        "learning_rate",
        "images_per_second",
    )
    every = (
        {"parameters"}
        | {f"train/{name}" for name in train_names}
        | {f"validation/{name}" for name in (*scores, "agreement")}
    )
    last = {f"test/{which}/{name}" for which in ("best", "last") for name in scores} | {
        "best_epoch"
    }
    assert [record.epoch for record in records] == [1, 2, 3, 4]
    assert [record.done for record in records] == [False, False, False, True]
    for record in records:
        named = {name for name in record.metrics if not name.startswith(("seconds/", "cache/"))}
        assert named == every | (last if record.done else set())
        assert {"seconds/data", "seconds/teacher", "seconds/student", "seconds/evaluation"} <= set(
            record.metrics
        )
        assert all(isinstance(value, float) for value in record.metrics.values())


def test_metrics_are_those_of_the_saved_weights(
    specify: Specify, make_teacher: MakeTeacher
) -> None:
    spec = specify(*DISTIL)
    folder = make_teacher(spec.data, width=32)
    spec = spec.model_copy(update={"teacher": folder})
    records = records_of(spec)
    metrics, kept = records[-1].metrics, saved(spec)
    accuracy, predicted = quality(spec, kept.student, "validation")
    assert metrics["validation/accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert metrics["test/last/accuracy"] == pytest.approx(
        quality(spec, kept.student, "test")[0], abs=1e-12
    )
    assert metrics["test/best/accuracy"] == pytest.approx(
        quality(spec, kept.best, "test")[0], abs=1e-12
    )
    accuracies = [record.metrics["validation/accuracy"] for record in records]
    assert metrics["best_epoch"] == 1 + accuracies.index(max(accuracies)), (
        "the first epoch with the highest accuracy"
    )
    assert quality(spec, kept.best, "validation")[0] == pytest.approx(max(accuracies), abs=1e-12)
    teacher_predictions = predictions(
        spec, "mlp", {"width": 32}, load_file(folder / "weights.safetensors"), "validation"
    )
    assert metrics["validation/agreement"] == pytest.approx(
        (predicted == teacher_predictions).double().mean().item(), abs=1e-12
    )


def test_the_test_part_is_evaluated_in_the_last_epoch_alone(
    specify: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts: list[str] = []

    def recording_evaluate(
        module: DistillationModule, batches: Batches, part: Any, *rest: Any
    ) -> Evaluation:
        parts.append(part)
        return evaluate(module, batches, part, *rest)

    monkeypatch.setattr(student, "evaluate", recording_evaluate)
    records_of(specify(*PLAIN))
    assert parts == ["validation"] * EPOCHS + ["test", "test"]


def test_gradient_clip_bounds_the_step(specify: Specify, initial: list[dict[str, Tensor]]) -> None:
    one_step = (
        "training.epochs=1",
        "training.batch_size=256",
        "training.momentum=0",
        "training.weight_decay=0",
    )
    spec = specify(*PLAIN, *one_step, "training.learning_rate=0.5", "training.gradient_clip=1e-3")
    records_of(spec)
    moved = torch.cat(
        [(value - initial[0][key]).flatten() for key, value in saved(spec).student.items()]
    )
    assert moved.norm().item() == pytest.approx(0.5 * 1e-3, rel=1e-3)


def test_a_student_learns_the_digits(specify: Specify) -> None:
    spec = specify(
        *PLAIN,
        "data.limit.train=800",
        "student.width=32",
        "training.epochs=6",
        "training.learning_rate=0.2",
    )
    assert records_of(spec)[-1].metrics["test/last/accuracy"] > 0.75


def test_student_starts_from_configured_weights(
    specify: Specify, initial: list[dict[str, Tensor]]
) -> None:
    first = specify(*PLAIN, folder="first")
    records_of(first)
    file = first.folder / CHECKPOINT / "student.safetensors"
    records_of(specify(*PLAIN, f"student.weights={file}", "seed=9", folder="second"))
    trained = saved(first).student
    assert all(torch.equal(value, trained[key]) for key, value in initial[1].items())


def test_random_draws_of_the_cache_do_not_change_the_trial(
    specify: Specify, make_teacher: MakeTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = (
        *SMALL,
        *RECIPE,
        "student.name=mlp",
        "student.width=8",
        "student.dropout=0.3",
        "method.name=kd",
    )
    quiet, drawing = (specify(*pairs, folder=folder) for folder in ("quiet", "drawing"))
    quiet, drawing = (
        spec.model_copy(update={"teacher": make_teacher(spec.data, width=32)})
        for spec in (quiet, drawing)
    )
    records_of(quiet)
    open_view = CachedTeacher.open_view

    def drawn(self: CachedTeacher, *arguments: Any) -> None:
        torch.rand(3)
        open_view(self, *arguments)

    monkeypatch.setattr(CachedTeacher, "open_view", drawn)
    records_of(drawing)
    assert_same_bits(saved(drawing), saved(quiet))


def test_every_step_sends_a_heartbeat(specify: Specify) -> None:
    spec, signs = specify(*PLAIN, "training.epochs=1", "training.batch_size=16"), list[None]()
    train(spec, TrialContext(heartbeat=lambda: signs.append(None)))
    assert len(signs) >= 256 / 16 + 1


def test_index_is_on_the_device_of_the_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Noting(Method):
        """A method that records the device of the index."""

        def forward(self, batch: Batch) -> Objective:
            """Return a trivial objective."""
            self.place = batch.index.device
            return Objective(batch.student.logits.sum())

    # the meta device has no autocast
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    meta, method = torch.device("meta"), Noting(Settings())
    batch = Inputs(
        torch.arange(2),
        torch.zeros(2, 1, 8, 8, device=meta),
        torch.zeros(2, dtype=torch.int64, device=meta),
    )
    DistillationModule(build("mlp", 10, (1, 8, 8), {}).to(meta), method, None)(batch, None)
    assert method.place == meta
