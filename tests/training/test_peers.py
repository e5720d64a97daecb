"""Test several students in one process: they exchange logits, and nothing else."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from trials_run import records_of, saved

from methods import METHODS, Batch, Needs, Objective
from methods.dual_student import DualStudent
from orchestrator.config.schema import Search
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import TrialError
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.views import Views
from orchestrator.models.build import MODELS, Builder, build
from orchestrator.models.network import Network
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.training._exchange import Colocated
from orchestrator.training._randomness import seed_everything
from orchestrator.training._student import PEER
from orchestrator.training._trainer import train
from orchestrator.training._trial_metrics import compute_trial_metrics, select_student_metrics
from orchestrator.training.process_cache import load_teacher
from tests.refusal import refused

Specify = Callable[..., TrialSpec]
SMALL = (
    "data.limit.train=128",
    "data.limit.validation=60",
    "data.limit.test=60",
    "data.augmentation=crop",
    "training.batch_size=32",
)
A = ("student.name=mlp", "student.width=8", "training.epochs=3")
B = (
    "peers.b.network.name=cnn",
    "peers.b.network.width=4",
    "peers.b.training.learning_rate=0.01",
    "peers.b.training.optimizer=adamw",
)

DUAL = ("method.name=dual_student", "method.peer_warmup=0.34", "method.lambda_peer=0.3")
TIMED = ("seconds/", "train/images_per_second", "cache/")


def weights(spec: TrialSpec, letter: str = "a") -> dict[str, Tensor]:
    return saved(spec, letter).student


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    assert set(one) == set(other)
    return all(torch.equal(value, other[key]) for key, value in one.items())


def alone_as_b(distil: Specify, tmp_path: Path, *method: str) -> TrialSpec:
    """Return a trial of only the peer of `B`, with the peer's initial weights."""
    spec = distil(*SMALL, *A, *B, *method)
    dataset, network = Dataset.open(spec.data), spec.configuration.peers["b"].network
    seed_everything(spec.configuration.seed, PEER, 1)
    initial_network = build(network.name, len(dataset.classes), dataset.shape, network.settings)
    save_file(initial_network.state_dict(), tmp_path / "initial.safetensors")
    own = (
        "student.name=cnn",
        "student.width=4",
        f"student.weights={tmp_path}/initial.safetensors",
        "training.epochs=3",
    )
    return distil(
        *SMALL,
        *own,
        "training.learning_rate=0.01",
        "training.optimizer=adamw",
        *method,
        folder="b-alone",
    )


@pytest.fixture
def register_method_without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the method `without_peers`: dual students for a single one."""

    class WithoutPeers(DualStudent):
        needs = Needs(teacher=True)

    monkeypatch.setitem(METHODS, "without_peers", WithoutPeers)


def test_students_without_peer_learning_train_as_if_alone(distil: Specify, tmp_path: Path) -> None:
    both = distil(*SMALL, *A, *B, "method.name=kd", folder="both")
    records_of(both)
    for letter, spec in (
        ("a", distil(*SMALL, *A, "method.name=kd", folder="a-alone")),
        ("b", alone_as_b(distil, tmp_path, "method.name=kd")),
    ):
        records_of(spec)
        assert same(weights(both, letter), weights(spec)), letter
        assert same(saved(both, letter).best, saved(spec).best), letter


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
@pytest.mark.usefixtures("register_method_without_peers")
def test_students_with_zero_peer_weight_train_as_if_alone(
    distil: Specify, tmp_path: Path, update: str
) -> None:
    settings = ("method.lambda_peer=0", f"method.update={update}")
    both = distil(*SMALL, *A, *B, "method.name=dual_student", *settings, folder="both")
    records_of(both)
    method = ("method.name=without_peers", *settings)
    for letter, spec in (
        ("a", distil(*SMALL, *A, *method, folder="a-alone")),
        ("b", alone_as_b(distil, tmp_path, *method)),
    ):
        records_of(spec)
        assert same(weights(both, letter), weights(spec)), letter


def test_peer_weight_changes_the_students(distil: Specify) -> None:
    trained = []
    for name, value in (("with", 0.3), ("without", 0.0)):
        spec = distil(
            *SMALL,
            *A,
            *B,
            "method.name=dual_student",
            "method.peer_warmup=0",
            f"method.lambda_peer={value}",
            folder=name,
        )
        records_of(spec)
        trained.append(spec)
    assert not same(weights(trained[0]), weights(trained[1])) and not same(
        weights(trained[0], "b"), weights(trained[1], "b")
    )


def forgetful(_: Any, classes: int, shape: tuple[int, int, int]) -> Network:
    """Return a linear student with dropout, which draws at every step."""
    return Network(
        "forgetful", nn.Sequential(nn.Flatten(), nn.Dropout(0.5)), math.prod(shape), classes
    )


@pytest.mark.parametrize(
    "method", [("method.name=kd",), (*DUAL, "method.lambda_peer=0", "method.update=alternating")]
)
def test_each_student_has_its_own_random_numbers(
    distil: Specify, monkeypatch: pytest.MonkeyPatch, method: tuple[str, ...]
) -> None:
    monkeypatch.setitem(MODELS, "forgetful", Builder(forgetful))
    student = ("student.name=forgetful", "training.epochs=2")
    pairs = [distil(*SMALL, *student, "peers.b.network.name=forgetful", *method, folder="drawing")]
    pairs.append(
        distil(*SMALL, *student, "peers.b.network.name=mlp", *method, folder="not-drawing")
    )
    for spec in pairs:
        records_of(spec)
    assert same(*(weights(spec) for spec in pairs))


@pytest.mark.parametrize("update", ["simultaneous", "alternating"])
def test_resume_of_a_pair_is_bit_identical(distil: Specify, update: str) -> None:
    whole, broken = (
        distil(*SMALL, *A, *B, *DUAL, f"method.update={update}", folder=folder)
        for folder in ("whole", "broken")
    )
    expected = records_of(whole)
    records_of(broken, dies_after=1)
    resumed = records_of(broken)
    assert [record.epoch for record in resumed] == [1, 2, 3]
    for one, other in zip(expected, resumed, strict=True):
        timeless = [
            {key: value for key, value in each.metrics.items() if not key.startswith(TIMED)}
            for each in (one, other)
        ]
        assert timeless[0] == timeless[1]
    assert all(same(weights(whole, letter), weights(broken, letter)) for letter in "ab")


class Recording(DualStudent):
    """Dual students that record each student's own and received logits at every step."""

    received: ClassVar[list[tuple[Tensor, Tensor]]] = []

    def forward(self, batch: Batch) -> Objective:
        self.received.append((batch.student.logits.detach().clone(), batch.peer_logits.clone()))
        return super().forward(batch)


class RecordingInTurn(Recording):
    @property
    def updates_alternately(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [Recording, RecordingInTurn])
def test_peer_logits_are_the_published_logits(
    distil: Specify, monkeypatch: pytest.MonkeyPatch, kind: type[Recording]
) -> None:
    monkeypatch.setitem(METHODS, "recording", kind)
    monkeypatch.setattr(Recording, "received", [])
    three = (
        "peers.b.network.name=mlp",
        "peers.b.network.width=6",
        "peers.c.network.name=mlp",
        "peers.c.network.width=4",
    )
    records_of(distil(*SMALL, *A, *three, "method.name=recording", "training.epochs=1"))
    steps = [kind.received[step : step + 3] for step in range(0, len(kind.received), 3)]
    assert len(steps) == 4
    for (a, of_a), (b, of_b), (c, of_c) in steps:
        assert of_a.shape == (2, 32, 10) and not of_a.requires_grad
        assert torch.equal(of_a, torch.stack([b, c])), (
            "the first student receives the logits from before the step"
        )
        assert torch.equal(of_b[1], c)
        assert (
            torch.equal(of_b[0], a)
            == torch.equal(of_c[0], a)
            == torch.equal(of_c[1], b)
            == (kind is Recording)
        )
        assert torch.equal(of_b[0], of_c[0]), "both receive the same logits of a"


def test_republishing_leaves_the_running_statistics_unchanged(distil: Specify) -> None:
    both = []
    for update in ("simultaneous", "alternating"):
        spec = distil(
            *SMALL,
            "student.name=cnn",
            "student.width=4",
            "training.epochs=1",
            *B,
            *DUAL,
            f"method.update={update}",
            folder=update,
        )
        records_of(spec)  # the peer weight is 0 in the first epoch
        both.append(weights(spec))
    assert any("running_mean" in key for key in both[0]) and same(*both)


def test_records_hold_the_metrics_of_every_student(distil: Specify) -> None:
    spec = distil(*SMALL, *A, *B, *DUAL)
    last = records_of(spec)[-1].metrics
    for name in ("validation/accuracy", "test/last/accuracy", "train/loss", "best_epoch"):
        assert last[name] == pytest.approx((last[f"a/{name}"] + last[f"b/{name}"]) / 2)
    sizes = [
        sum(
            value.numel()
            for key, value in weights(spec, letter).items()
            if "running" not in key and "num_" not in key
        )
        for letter in "ab"
    ]
    assert [last["a/parameters"], last["b/parameters"]] == sizes and last["parameters"] == sum(
        sizes
    )
    assert last["a/train/learning_rate"] != last["b/train/learning_rate"]
    assert "seconds/student" in last and "a/seconds/student" not in last


def test_the_agreement_is_that_of_the_saved_students(distil: Specify) -> None:
    spec = distil(*SMALL, *A, *B, *DUAL)
    agreement = records_of(spec)[-1].metrics["pair/agreement"]
    dataset = Dataset.open(spec.data)
    part = dataset.split("validation")
    predicted = []
    for letter, student in spec.configuration.students.items():
        network = build(
            student.network.name, len(dataset.classes), dataset.shape, student.network.settings
        ).eval()
        network.load_state_dict(weights(spec, letter))
        batches = Batches(dataset, Views.from_config(dataset, spec.configuration.data, 0), 30, 0)
        with torch.no_grad():
            predicted.append(
                torch.cat(
                    [
                        network(batch.inputs).logits.argmax(dim=1)
                        for batch in batches.iterate_in_order("validation")
                    ]
                )
            )
    assert len(predicted[0]) == len(part) == 60
    assert agreement == pytest.approx((predicted[0] == predicted[1]).double().mean().item())
    for letter in "ab":
        kept = saved(spec, letter).trace["epochs/pair/agreement"]
        assert kept.shape == (3,) and kept[-1].item() == pytest.approx(agreement)


METRICS: dict[str, dict[str, float]] = {
    "a": {
        "validation/accuracy": 0.8,
        "validation/nll": 0.5,
        "parameters": 10.0,
        "method/alpha": 1.0,
    },
    "b": {"validation/accuracy": 0.6, "validation/nll": 0.3, "parameters": 30.0},
}


@pytest.mark.parametrize(
    ("search", "accuracy", "nll"),
    [
        ({}, 0.7, 0.4),
        ({"students": "min"}, 0.6, 0.3),
        ({"students": "min", "objective": "validation/nll", "direction": "minimize"}, 0.8, 0.5),
        ({"students": "a"}, 0.8, 0.5),
        ({"students": "b"}, 0.6, 0.3),
    ],
)
def test_trial_metrics_follow_the_selected_students(
    search: dict[str, Any], accuracy: float, nll: float
) -> None:
    found = compute_trial_metrics(METRICS, Search(**search))
    assert (found["validation/accuracy"], found["validation/nll"]) == pytest.approx((accuracy, nll))
    assert found["parameters"] == 40.0
    for letter, metrics in METRICS.items():
        assert select_student_metrics(found, letter, several=True) == metrics


def test_metrics_of_a_single_student_are_those_of_the_trial() -> None:
    assert (
        compute_trial_metrics({"a": METRICS["a"]}, Search())
        == METRICS["a"]
        == select_student_metrics(METRICS["a"], "a", several=False)
    )


@pytest.mark.parametrize(("weight", "num_calls"), [(0.0, 0), (0.3, 2 * 4 * 2)])
def test_students_without_peer_weight_publish_nothing(
    distil: Specify, monkeypatch: pytest.MonkeyPatch, weight: float, num_calls: int
) -> None:
    calls: list[int] = []
    original_publish = Colocated.publish

    def counted(self: Colocated, position: int, *rest: Any) -> None:
        calls.append(position)
        original_publish(self, position, *rest)

    monkeypatch.setattr(Colocated, "publish", counted)
    records_of(distil(*SMALL, *A, *B, *DUAL, f"method.lambda_peer={weight}", "training.epochs=2"))
    assert len(calls) == num_calls


def test_divergence_error_names_the_students_and_their_recipes(distil: Specify) -> None:
    with refused("peers.b.training.learning_rate", 1e30, error=TrialError) as refusal:
        train(
            distil(*SMALL, *A, *B, "method.name=kd", "peers.b.training.learning_rate=1e30"),
            TrialContext(),
        )
    assert "student b" in str(refusal.value) and "epoch 1" in str(refusal.value)
    both = ("training.learning_rate=1e30", "peers.b.training.learning_rate=1e30")
    with refused("training.learning_rate", 1e30, error=TrialError) as refusal:
        train(distil(*SMALL, *A, *B, "method.name=kd", *both), TrialContext())
    assert "a and b" in str(refusal.value) and "peers.b.training.learning_rate" in str(
        refusal.value
    )


@pytest.mark.parametrize(
    ("of_ranks", "precision"),
    [(("bfloat16", "bfloat16"), "bfloat16, head in float32"), (("bfloat16", None), "float32")],
)
def test_workers_on_different_devices_use_one_teacher_precision(
    distil: Specify,
    monkeypatch: pytest.MonkeyPatch,
    of_ranks: tuple[str | None, ...],
    precision: str,
) -> None:
    types = [getattr(torch, name) if name else None for name in of_ranks]
    monkeypatch.setattr(TrialContext, "all_gather_object", lambda self, mine: types)
    teacher = load_teacher(distil(*SMALL, *A, *B), TrialContext(0, 2))
    assert isinstance(teacher, FrozenTeacher) and teacher.precision == precision
