"""Test banks that students fill in one process: content, time, and bit-identical resumes."""

import math
import shutil
from collections.abc import Callable

import pytest
import torch
from remembering import METHODS_WITH_IT, SMALL, STUDENTS, Remembering, clean, fresh, network
from safetensors.torch import load_file
from torch import Tensor, nn
from trials_run import left, records_of, saved, untimed

from methods import METHODS, Knowledge, Output
from methods.bank_schedule import BankSchedule
from methods.method import Method
from orchestrator.config.schema import LETTERS
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import Record, Stopped, TrialContext
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.views import Views
from orchestrator.training import _bank as banks
from orchestrator.training._bank import StudentBank, join_banks
from orchestrator.training._distillation_module import DistillationModule
from orchestrator.training._trainer import train

Specify = Callable[..., TrialSpec]
CLASSES, SAMPLES, SIZE = 10, 140, 32


@pytest.fixture(autouse=True)
def remembering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the method, and clear its records."""
    monkeypatch.setitem(METHODS, "remembering", METHODS_WITH_IT["remembering"])
    monkeypatch.setattr(Remembering, "refreshed", [])


def metrics(records: list[Record]) -> list[dict[str, float]]:
    return [untimed(each["metrics"]) for each in records]


def after_each_epoch(spec: TrialSpec, students: int = 1) -> list[list[dict[str, Tensor]]]:
    """Return the weights of a trial's students after each epoch."""
    found = []

    def report(record: Record) -> None:
        found.append([saved(spec, letter).student for letter in LETTERS[:students]])

    train(spec, TrialContext(report=report))
    return found


def close(found: Output, expected: Output) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def same_knowledge(one: Knowledge, other: Knowledge) -> bool:
    assert one.features is not None and other.features is not None
    return torch.equal(one.logits, other.logits) and torch.equal(one.features, other.features)


def test_it_is_what_the_student_says_after_the_epoch_of_the_clean_part(specify: Specify) -> None:
    spec = specify(*SMALL, *STUDENTS["own"], "method.first=2")
    epochs = after_each_epoch(spec)
    assert len(Remembering.refreshed) == 2, "after 2 and 3 of 4 epochs"
    for knowledge, states in zip(Remembering.refreshed, epochs[1:], strict=False):
        assert knowledge.features is not None and knowledge.members is None
        close(Output(knowledge.logits, knowledge.features), fresh(spec, states)[0])
        assert knowledge.labels.tolist() == Dataset.open(spec.data).train.labels.tolist()


def test_it_counts_from_the_epoch_after_that(specify: Specify) -> None:
    records = records_of(specify(*SMALL, *STUDENTS["own"], "method.first=2"))
    assert [record["metrics"]["train/remembered"] > 0 for record in records] == [
        False,
        False,
        True,
        True,
    ]
    assert all(record["metrics"]["seconds/bank"] > 0 for record in records)


@pytest.mark.parametrize("fill", ["epoch", "ema"])
def test_to_fill_it_leaves_no_trace(
    specify: Specify, monkeypatch: pytest.MonkeyPatch, fill: str
) -> None:
    """Without updates of its bank, a student trains as without a bank, to the random numbers."""
    pairs = (*SMALL, *STUDENTS["own"], f"method.fill={fill}")
    monkeypatch.setattr(Remembering, "update_bank", lambda self, knowledge: None)
    with_bank = specify(*pairs, folder="with")
    records_of(with_bank)
    without = specify(*pairs, folder="without")
    monkeypatch.setattr(Remembering, "bank_schedule", Method.bank_schedule)
    records_of(without)
    found, expected = left(with_bank), left(without)
    assert set(found) == set(expected) and all(
        torch.equal(value, found[key]) for key, value in expected.items()
    )


def test_after_an_online_epoch_without_momentum_and_rate_it_is_a_fresh_forward(
    specify: Specify,
) -> None:
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
    (knowledge,) = Remembering.refreshed
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


def made(
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
    bank_schedule = BankSchedule("own", fill, momentum, 0, 1)  # type: ignore[arg-type]
    return StudentBank(
        bank_schedule, DistillationModule(student, method, None), batches, TrialContext()
    ), student


def go_on() -> None:
    """Never request a stop."""


@torch.no_grad()
def test_the_average_moves_a_little_at_each_step(specify: Specify) -> None:
    spec, momentum = specify(*SMALL), 0.7
    bank, student = made(spec, "ema", momentum)
    expected = {name: value.double() for name, value in student.named_parameters()}
    for _ in range(4):
        for name, value in student.named_parameters():
            value.add_(torch.randn_like(value))
            expected[name] = momentum * expected[name] + (1 - momentum) * value.double()
        student.norm.running_mean.normal_()  # type: ignore[union-attr, operator]
        bank.step()
    found, pictures = bank.filled(go_on), clean(spec).flatten(1).double()
    body = pictures @ expected["body.weight"].T + expected["body.bias"] - student.norm.running_mean  # type: ignore[operator]
    close(
        Output(*(each.double() for each in found)),
        Output(
            pictures @ expected["head.weight"].T + expected["head.bias"],
            body / math.sqrt(1 + student.norm.eps) * expected["norm.weight"]
            + expected["norm.bias"],
        ),
    )
    assert bank.learner.training


@pytest.mark.parametrize("share", [None, 0.5])
def test_entries_are_blended_with_what_is_said_in_training(
    specify: Specify, share: float | None
) -> None:
    """One by one; if a sample occurs twice in a batch, the last one counts."""
    spec, momentum = specify(*SMALL, *(("data.labelled=12",) if share else ())), 0.8
    bank, _ = made(spec, "momentum", momentum, share)
    expected: dict[int, tuple[Tensor, Tensor]] = {}
    twice = False
    for epoch in range(3):
        for batch in bank.batches.train(epoch, None):
            said = Output(torch.randn(SIZE, CLASSES), torch.randn(SIZE, 3))
            bank.record(batch.index, said)
            now = {
                int(sample): (said.logits[place], said.features[place])
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
    found = bank.filled(go_on)
    rows = sorted(expected)
    close(
        Output(found.logits[rows], found.features[rows]),
        Output(*(torch.stack([expected[row][part] for row in rows]) for part in (0, 1))),
    )
    before = [each.clone() for each in found]
    bank.record(torch.arange(SIZE), Output(torch.randn(SIZE, CLASSES), torch.randn(SIZE, 3)))
    assert all(torch.equal(one, other) for one, other in zip(before, found, strict=True)), (
        "what is in force stays"
    )


def test_what_peers_say_is_the_mean_of_what_each_does(specify: Specify) -> None:
    spec = specify(*SMALL, *STUDENTS["peers"], "training.epochs=3")
    epochs = after_each_epoch(spec, students=3)
    assert len(Remembering.refreshed) == 6
    for place, knowledge in enumerate(Remembering.refreshed):
        said = fresh(spec, epochs[place // 3])
        others = [each for position, each in enumerate(said) if position != place % 3]
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


def test_of_two_students_each_has_the_bank_of_the_other() -> None:
    said = Output(torch.randn(7, 3), torch.randn(7, 5))
    found = join_banks([said])
    assert torch.equal(found.logits, said.logits)
    torch.testing.assert_close(
        found.features, said.features / said.features.norm(dim=1, keepdim=True)
    )


@pytest.mark.parametrize("queue", [0, 50, 139, 140])
def test_only_those_that_were_drawn_last_can_be_retrieved(specify: Specify, queue: int) -> None:
    spec = specify(*SMALL, *STUDENTS["own"], f"method.queue={queue}", "training.epochs=3")
    records_of(spec)
    dataset, drawn = Dataset.open(spec.data), []
    batches = Batches(
        dataset,
        Views.from_config(dataset, spec.configuration.data, 0),
        SIZE,
        spec.configuration.seed,
    )
    for epoch, knowledge in enumerate(Remembering.refreshed):
        drawn = [int(sample) for batch in batches.train(epoch, None) for sample in batch.index]
        if queue in (0, SAMPLES):
            assert knowledge.members is None
        else:
            assert knowledge.members is not None
            assert set(knowledge.members.nonzero().flatten().tolist()) == set(drawn[-queue:])


@pytest.mark.parametrize(
    ("source", "fill"), [("own", "epoch"), ("own", "ema"), ("own", "momentum"), ("peers", "ema")]
)
def test_a_resume_has_the_bits(specify: Specify, source: str, fill: str) -> None:
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


def test_a_checkpoint_keeps_what_the_weights_do_not_tell(specify: Specify) -> None:
    files = {}
    for fill in ("epoch", "ema", "momentum"):
        spec = specify(*SMALL, *STUDENTS["own"], f"method.fill={fill}", folder=fill)
        records_of(spec, dies_after=2)
        file = spec.folder / "checkpoint" / "bank.safetensors"
        files[fill] = set(load_file(file)) if file.exists() else set()
        records_of(spec)
        assert not file.exists(), "nobody needs a bank after the last epoch"
    average = {
        f"average/{name}" for name, _ in network(spec, "a", saved(spec).student).named_parameters()
    }
    assert files == {"epoch": set(), "ema": average, "momentum": {"logits", "features", "seen"}}


@pytest.mark.parametrize("fill", ["epoch", "ema", "momentum"])
def test_who_takes_over_the_checkpoint_of_another_trial_has_its_bank(
    specify: Specify, fill: str
) -> None:
    """With its own settings, as in PBT; a source without a bank in force has its inputs."""
    pairs = (*SMALL, *STUDENTS["own"], f"method.fill={fill}")
    donor = specify(*pairs, folder="donor")
    records_of(donor, dies_after=2)
    late = specify(*pairs, "method.first=3", folder="late")
    records_of(late, dies_after=2)
    given = Remembering.refreshed[-1]
    for source in (donor, late):
        heir = specify(*pairs, "method.momentum=0.4", folder=f"heir-of-{source.folder.name}")
        shutil.copytree(source.folder / "checkpoint", heir.folder / "checkpoint")
        Remembering.refreshed.clear()
        records_of(heir)
        assert len(Remembering.refreshed) == 2, (
            "after the second epoch, which the other one had, and after the third"
        )
        if source is donor:
            assert same_knowledge(Remembering.refreshed[0], given)
        assert Remembering.refreshed[0].logits.isfinite().all()


@pytest.mark.parametrize("fill", ["ema", "momentum"])
def test_a_checkpoint_without_what_a_bank_is_made_of_begins_it_with_its_weights(
    specify: Specify, fill: str
) -> None:
    donor = specify(*SMALL, *STUDENTS["own"], folder="donor")
    records_of(donor, dies_after=2)
    heir = specify(*SMALL, *STUDENTS["own"], f"method.fill={fill}", folder="heir")
    shutil.copytree(donor.folder / "checkpoint", heir.folder / "checkpoint")
    Remembering.refreshed.clear()
    expected = fresh(heir, [saved(donor).student])[0]
    records_of(heir)
    first = Remembering.refreshed[0]
    assert first.features is not None
    close(Output(first.logits, first.features), expected)


def test_a_trial_that_is_stopped_leaves_the_pass(
    specify: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(banks, "STOP_CHECK_BLOCKS", 2)
    spec, whole = (specify(*SMALL, *STUDENTS["own"], folder=name) for name in ("stopped", "whole"))
    expected = metrics(records_of(whole))
    asked: list[bool] = []
    filled = StudentBank.filled

    def stopped(self: StudentBank, going_on: Callable[[], None]) -> Output:
        asked.append(True)
        with pytest.raises(Stopped):
            filled(self, going_on)
        raise Stopped

    records: list[Record] = []
    with monkeypatch.context() as patched:
        patched.setattr(StudentBank, "filled", stopped)
        train(spec, TrialContext(report=records.append, stop_requested=lambda: bool(asked)))
    assert asked == [True] and not records
    assert metrics(records_of(spec)) == expected


@pytest.mark.parametrize("fill", ["epoch", "ema", "momentum"])
def test_in_a_half_type_the_bank_is_in_float32(specify: Specify, fill: str) -> None:
    spec = specify(
        *SMALL,
        *STUDENTS["own"],
        f"method.fill={fill}",
        "training.precision=bfloat16",
        "training.epochs=2",
    )
    records_of(spec)
    (knowledge,) = Remembering.refreshed
    assert knowledge.features is not None
    assert knowledge.logits.dtype == knowledge.features.dtype == torch.float32
    assert not knowledge.logits.requires_grad and not knowledge.features.requires_grad
