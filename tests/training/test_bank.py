"""Test banks that students fill in one process: content, time, and bit-identical resumes."""

import math
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from remembering import METHODS_WITH_IT, SMALL, STUDENTS, Remembering, clean, fresh, network
from safetensors.torch import load_file
from torch import Tensor, nn
from trials_run import left, records_of, saved, untimed

from methods import METHODS, Knowledge, Output
from methods.bank_plan import BankPlan
from orchestrator.config.schema import LETTERS
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import Stopped, TrialContext
from orchestrator.core.reports import EpochRecord
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.views import Views
from orchestrator.training._distillation_module import DistillationModule
from orchestrator.training._trainer import train
from orchestrator.training.capabilities import _student_bank as banks
from orchestrator.training.capabilities._student_bank import StudentBank, join_banks

Specify = Callable[..., TrialSpec]
CLASSES, SAMPLES, SIZE = 10, 140, 32


@pytest.fixture(autouse=True)
def remembering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the method, and clear its records."""
    monkeypatch.setitem(METHODS, "remembering", METHODS_WITH_IT["remembering"])
    monkeypatch.setattr(Remembering, "bank_updates", [])


def metrics(records: list[EpochRecord]) -> list[dict[str, float]]:
    return [untimed(each.metrics) for each in records]


def after_each_epoch(spec: TrialSpec, students: int = 1) -> list[list[dict[str, Tensor]]]:
    """Return the weights of a trial's students after each epoch."""
    found = []

    def report(record: Any) -> None:
        found.append([saved(spec, letter).student for letter in LETTERS[:students]])

    train(spec, TrialContext(report=report))
    return found


def close(found: Output, expected: Output) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def same_knowledge(one: Knowledge, other: Knowledge) -> bool:
    assert one.features is not None and other.features is not None
    return torch.equal(one.logits, other.logits) and torch.equal(one.features, other.features)


def test_bank_holds_the_outputs_on_the_clean_part_after_the_epoch(specify: Specify) -> None:
    spec = specify(*SMALL, *STUDENTS["own"], "method.first=2")
    epochs = after_each_epoch(spec)
    assert len(Remembering.bank_updates) == 2, "after 2 and 3 of 4 epochs"
    for knowledge, states in zip(Remembering.bank_updates, epochs[1:], strict=False):
        assert knowledge.features is not None and knowledge.members is None
        close(Output(knowledge.logits, knowledge.features), fresh(spec, states)[0])
        assert knowledge.labels.tolist() == Dataset.open(spec.data).train.labels.tolist()


def test_bank_is_used_from_the_next_epoch_on(specify: Specify) -> None:
    records = records_of(specify(*SMALL, *STUDENTS["own"], "method.first=2"))
    assert [record.metrics["train/remembered"] > 0 for record in records] == [
        False,
        False,
        True,
        True,
    ]
    assert all(record.metrics["seconds/bank"] > 0 for record in records)


@pytest.mark.parametrize("fill", ["epoch", "ema"])
def test_updating_the_bank_does_not_change_the_training(
    specify: Specify, monkeypatch: pytest.MonkeyPatch, fill: str
) -> None:
    """Without updates of its bank, a student trains as without a bank, to the random numbers."""
    pairs = (*SMALL, *STUDENTS["own"], f"method.fill={fill}")
    monkeypatch.setattr(Remembering, "update_bank", lambda self, knowledge: None)
    with_bank = specify(*pairs, folder="with")
    records_of(with_bank)
    without = specify(*pairs, folder="without")
    monkeypatch.setattr(Remembering, "bank_plan", lambda self, epochs: None)
    records_of(without)
    found, expected = left(with_bank), left(without)
    assert set(found) == set(expected) and all(
        torch.equal(value, found[key]) for key, value in expected.items()
    )


def test_momentum_bank_without_momentum_equals_a_forward_pass(specify: Specify) -> None:
    """This includes samples that the last incomplete batch dropped."""
    still = (
        "data.augmentation=none",
        "training.learning_rate=1e-30",
        "method.fill=momentum",
        "method.momentum=0",
    )
    spec = specify(*SMALL, "student.name=mlp", "student.width=8", "training.epochs=2", *still)
    assert SAMPLES % SIZE
    states = after_each_epoch(spec)
    (knowledge,) = Remembering.bank_updates
    assert knowledge.features is not None
    close(Output(knowledge.logits, knowledge.features), fresh(spec, states[0])[0])


class Linear(nn.Module):
    """Linear logits and features; the features are normalised by running statistics."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.head, self.body, self.norm = (
            nn.Linear(inputs, CLASSES),
            nn.Linear(inputs, 3),
            nn.BatchNorm1d(3),
        )

    def forward(self, inputs: Tensor) -> Output:
        flat = inputs.flatten(1)
        return Output(self.head(flat), self.norm(self.body(flat)))


def build_bank(
    spec: TrialSpec, fill: str, momentum: float, share: float | None = None
) -> tuple[StudentBank, Linear]:
    """Return the bank of a linear student, and this student."""
    dataset = Dataset.open(spec.data)
    batches = Batches(
        dataset,
        Views.from_config(dataset, spec.configuration.data, 0),
        SIZE,
        0,
        labelled_share=share,
    )
    student = Linear(math.prod(dataset.shape))
    method = Remembering(Remembering.Settings())
    plan = BankPlan("own", 0, 0, fill, momentum, 0, 1)  # type: ignore[arg-type]
    return StudentBank(
        plan, DistillationModule(student, method, None), batches, TrialContext()
    ), student


def continue_training() -> None:
    """Never request a stop."""


@torch.no_grad()
def test_average_follows_the_weights_at_each_step(specify: Specify) -> None:
    spec, momentum = specify(*SMALL), 0.7
    bank, student = build_bank(spec, "ema", momentum)
    expected = {name: value.double() for name, value in student.named_parameters()}
    for _ in range(4):
        for name, value in student.named_parameters():
            value.add_(torch.randn_like(value))
            expected[name] = momentum * expected[name] + (1 - momentum) * value.double()
        student.norm.running_mean.normal_()  # type: ignore[union-attr, operator]
        bank.step()
    found, pictures = bank.compute_bank(continue_training), clean(spec).flatten(1).double()
    body = pictures @ expected["body.weight"].T + expected["body.bias"] - student.norm.running_mean  # type: ignore[operator]
    close(
        Output(*(each.double() for each in found)),
        Output(
            pictures @ expected["head.weight"].T + expected["head.bias"],
            body / math.sqrt(1 + student.norm.eps) * expected["norm.weight"]
            + expected["norm.bias"],
        ),
    )
    assert bank.distillation_module.training


@pytest.mark.parametrize("share", [None, 0.5])
def test_entries_are_blended_with_the_training_outputs(
    specify: Specify, share: float | None
) -> None:
    """One by one; if a sample occurs twice in a batch, the last one counts."""
    spec, momentum = specify(*SMALL, *(("data.labelled=12",) if share else ())), 0.8
    bank, _ = build_bank(spec, "momentum", momentum, share)
    expected: dict[int, tuple[Tensor, Tensor]] = {}
    twice = False
    for epoch in range(3):
        for batch in bank.batches.train(epoch, None):
            outputs = Output(torch.randn(SIZE, CLASSES), torch.randn(SIZE, 3))
            bank.record(batch.index, outputs)
            now = {
                int(sample): (outputs.logits[place], outputs.features[place])
                for place, sample in enumerate(batch.index)
            }
            twice |= len(now) < SIZE
            for sample, new in now.items():
                old = expected.get(sample, new)
                expected[sample] = tuple(
                    momentum * one + (1 - momentum) * other
                    for one, other in zip(old, new, strict=True)
                )  # type: ignore[assignment]
    assert twice == (share is not None)
    bank.end_epoch(last=False)
    found = bank.compute_bank(continue_training)
    rows = sorted(expected)
    close(
        Output(found.logits[rows], found.features[rows]),
        Output(*(torch.stack([expected[row][part] for row in rows]) for part in (0, 1))),
    )
    before = [each.clone() for each in found]
    bank.record(torch.arange(SIZE), Output(torch.randn(SIZE, CLASSES), torch.randn(SIZE, 3)))
    assert all(torch.equal(one, other) for one, other in zip(before, found, strict=True)), (
        "a returned bank does not change"
    )


def test_bank_of_peers_is_the_mean_of_their_banks(specify: Specify) -> None:
    spec = specify(*SMALL, *STUDENTS["peers"], "training.epochs=3")
    epochs = after_each_epoch(spec, students=3)
    assert len(Remembering.bank_updates) == 6
    for place, knowledge in enumerate(Remembering.bank_updates):
        outputs = fresh(spec, epochs[place // 3])
        others = [each for position, each in enumerate(outputs) if position != place % 3]
        torch.testing.assert_close(
            knowledge.logits, (others[0].logits + others[1].logits) / 2, rtol=1e-5, atol=1e-5
        )
        assert knowledge.features is not None
        cosines = [
            torch.cosine_similarity(each.features[:, None], each.features, dim=2) for each in others
        ]
        torch.testing.assert_close(
            knowledge.features @ knowledge.features.T, sum(cosines) / 2, rtol=1e-4, atol=1e-5
        )


def test_single_bank_of_a_peer_is_joined_unchanged() -> None:
    outputs = Output(torch.randn(7, 3), torch.randn(7, 5))
    found = join_banks([outputs])
    assert torch.equal(found.logits, outputs.logits)
    torch.testing.assert_close(
        found.features, outputs.features / outputs.features.norm(dim=1, keepdim=True)
    )


@pytest.mark.parametrize("queue", [0, 50, 139, 140])
def test_queue_holds_the_samples_drawn_last(specify: Specify, queue: int) -> None:
    spec = specify(*SMALL, *STUDENTS["own"], f"method.queue={queue}", "training.epochs=3")
    records_of(spec)
    dataset, drawn = Dataset.open(spec.data), []
    batches = Batches(
        dataset,
        Views.from_config(dataset, spec.configuration.data, 0),
        SIZE,
        spec.configuration.seed,
    )
    for epoch, knowledge in enumerate(Remembering.bank_updates):
        drawn = [int(sample) for batch in batches.train(epoch, None) for sample in batch.index]
        if queue in (0, SAMPLES):
            assert knowledge.members is None
        else:
            assert knowledge.members is not None
            assert set(knowledge.members.nonzero().flatten().tolist()) == set(drawn[-queue:])


@pytest.mark.parametrize(
    ("source", "fill"), [("own", "epoch"), ("own", "ema"), ("own", "momentum"), ("peers", "ema")]
)
def test_resume_with_a_bank_is_bit_identical(specify: Specify, source: str, fill: str) -> None:
    """Before a bank exists, when the first one takes effect, and with an earlier one."""
    pairs = (*SMALL, *STUDENTS[source], f"method.fill={fill}", "method.first=2", "method.queue=60")
    whole = specify(*pairs, folder="whole")
    expected = metrics(records_of(whole))
    for dies_after in (1, 2, 3):
        broken = specify(*pairs, folder=f"broken-{dies_after}")
        before, after = records_of(broken, dies_after), records_of(broken)
        assert metrics([*before, *after[1:]]) == expected
        found = left(broken)
        assert all(torch.equal(value, found[name]) for name, value in left(whole).items())


def test_checkpoint_holds_what_the_weights_do_not_determine(specify: Specify) -> None:
    files = {}
    for fill in ("epoch", "ema", "momentum"):
        spec = specify(*SMALL, *STUDENTS["own"], f"method.fill={fill}", folder=fill)
        records_of(spec, dies_after=2)
        file = spec.folder / "checkpoint" / "bank.safetensors"
        files[fill] = set(load_file(file)) if file.exists() else set()
        records_of(spec)
        assert not file.exists(), "no bank is needed after the last epoch"
    average = {
        f"average/{name}" for name, _ in network(spec, "a", saved(spec).student).named_parameters()
    }
    assert files == {"epoch": set(), "ema": average, "momentum": {"logits", "features", "seen"}}


@pytest.mark.parametrize("fill", ["epoch", "ema", "momentum"])
def test_copied_checkpoint_includes_the_bank(specify: Specify, fill: str) -> None:
    """With its own settings, as in PBT; a source without a bank in force has its inputs."""
    pairs = (*SMALL, *STUDENTS["own"], f"method.fill={fill}")
    donor = specify(*pairs, folder="donor")
    records_of(donor, dies_after=2)
    late = specify(*pairs, "method.first=3", folder="late")
    records_of(late, dies_after=2)
    given = Remembering.bank_updates[1]  # after the donor's second epoch
    for source in (donor, late):
        heir = specify(*pairs, "method.momentum=0.4", folder=f"heir-of-{source.folder.name}")
        shutil.copytree(source.folder / "checkpoint", heir.folder / "checkpoint")
        Remembering.bank_updates.clear()
        records_of(heir)
        assert len(Remembering.bank_updates) == 2, (
            "after the second epoch, from the copied checkpoint, and after the third"
        )
        if source is donor:
            assert same_knowledge(Remembering.bank_updates[0], given)
        assert Remembering.bank_updates[0].logits.isfinite().all()


@pytest.mark.parametrize("fill", ["ema", "momentum"])
def test_checkpoint_without_bank_state_initialises_the_bank_from_its_weights(
    specify: Specify, fill: str
) -> None:
    donor = specify(*SMALL, *STUDENTS["own"], folder="donor")
    records_of(donor, dies_after=2)
    heir = specify(*SMALL, *STUDENTS["own"], f"method.fill={fill}", folder="heir")
    shutil.copytree(donor.folder / "checkpoint", heir.folder / "checkpoint")
    Remembering.bank_updates.clear()
    expected = fresh(heir, [saved(donor).student])[0]
    records_of(heir)
    first = Remembering.bank_updates[0]
    assert first.features is not None
    close(Output(first.logits, first.features), expected)


def test_stop_request_interrupts_the_update_of_a_bank(
    specify: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(banks, "STOP_CHECK_BLOCKS", 2)
    spec, whole = (specify(*SMALL, *STUDENTS["own"], folder=name) for name in ("stopped", "whole"))
    expected = metrics(records_of(whole))
    stop_requests: list[bool] = []
    compute_bank = StudentBank.compute_bank

    def stopped(self: StudentBank, raise_if_stopped: Callable[[], None]) -> Output:
        stop_requests.append(True)
        with pytest.raises(Stopped):
            compute_bank(self, raise_if_stopped)
        raise Stopped

    records: list[Any] = []
    with monkeypatch.context() as patched:
        patched.setattr(StudentBank, "compute_bank", stopped)
        train(spec, TrialContext(report=records.append, stop_requested=lambda: bool(stop_requests)))
    assert stop_requests == [True] and not records
    assert metrics(records_of(spec)) == expected


@pytest.mark.parametrize("fill", ["epoch", "ema", "momentum"])
def test_bank_of_a_half_precision_student_is_float32(specify: Specify, fill: str) -> None:
    spec = specify(
        *SMALL,
        *STUDENTS["own"],
        f"method.fill={fill}",
        "training.precision=bfloat16",
        "training.epochs=2",
    )
    records_of(spec)
    (knowledge,) = Remembering.bank_updates
    assert knowledge.features is not None
    assert knowledge.logits.dtype == knowledge.features.dtype == torch.float32
    assert not knowledge.logits.requires_grad and not knowledge.features.requires_grad
