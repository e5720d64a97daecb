"""Test trials with adaptive alpha or a reweighted teacher in one process: bit-identical resumes."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from trials_run import records_of, saved

from methods import METHODS, ParameterGroup
from methods.weighted import AlphaWeightedMethod
from orchestrator.config.schema import Training
from orchestrator.config.trial import CHECKPOINT, TrialSpec
from orchestrator.data.batches import Batches
from orchestrator.data.passes import Inputs
from orchestrator.training._optimization import build_optimizer, learning_rate, set_learning_rates
from orchestrator.training._student import TrainedStudent

SMALL = (
    "data.limit.train=96",
    "data.limit.validation=40",
    "data.limit.test=40",
    "data.augmentation=crop",
    "data.views=2",
)
MLP = (*SMALL, "training.batch_size=16", "student.name=mlp", "student.width=8")
CNN = (*SMALL, "training.batch_size=16", "student.name=cnn", "student.width=4")


def learnable(name: str) -> tuple[str, ...]:
    return "method.alpha_schedule=learnable", f"method.alpha_learnable={name}"


def gap(name: str) -> tuple[str, ...]:
    return "method.alpha_schedule=gap", f"method.alpha_gap={name}"


FORMS: dict[str, tuple[str, ...]] = {
    **{
        name: (f"method.alpha_schedule={name}",)
        for name in ("constant", "linear", "cosine", "step")
    },
    **{name: learnable(name) for name in ("raw", "uncertainty", "entropy", "bayes", "bilevel")},
    **{name: gap(name) for name in ("ratio", "kl", "label", "acc")},
    "kl-sample": (*gap("kl"), "method.alpha_per_sample=true"),
}
CAM = ("method.cam=true", "method.cam_width=8", "method.cam_heads=2")
STATEFUL = {
    name: ("method.name=akd", *FORMS[name])
    for name in FORMS
    if name not in ("constant", "kl-sample")
} | {
    "bilevel-often": ("method.name=akd", *learnable("bilevel"), "method.alpha_every=4"),
    "cam": ("method.name=akd", *CAM),
    "cam-joint": ("method.name=akd", *CAM, "method.cam_grad=joint"),
    "cam-bilevel": ("method.name=akd", *CAM, *learnable("bilevel")),
    "kd-raw": ("method.name=kd", *FORMS["raw"]),
    "wttm-label": ("method.name=wttm", *FORMS["label"]),
}
WEIGHTED = [name for name, kind in METHODS.items() if issubclass(kind, AlphaWeightedMethod)]

Specify = Callable[..., TrialSpec]
MakeTeacher = Callable[..., Path]


def bits(value: Any, path: str = "") -> dict[str, bytes]:
    """Return every tensor of a state as bytes by its path, so that NaN equals NaN."""
    if isinstance(value, Tensor):
        return {path: value.contiguous().numpy().tobytes()}
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return {
        name: content
        for key, inner in items
        for name, content in bits(inner, f"{path}/{key}").items()
    }


def everything(spec: TrialSpec) -> dict[str, bytes]:
    kept = saved(spec)
    return {
        f"{part}{name}": content
        for part in ("student", "best", "method", "optimizer", "trace")
        for name, content in bits(getattr(kept, part)).items()
    }


@pytest.mark.parametrize(
    ("name", "form"),
    [*(("akd", form) for form in FORMS), *((name, "raw") for name in WEIGHTED if name != "akd")],
)
def test_every_alpha_and_every_method_trains(name: str, form: str, distil: Specify) -> None:
    spec = distil(*MLP, "training.epochs=2", f"method.name={name}", *FORMS[form])
    records = records_of(spec)
    assert [record.epoch for record in records] == [1, 2] and records[-1].done
    for record in records:
        assert all(math.isfinite(value) for value in record.metrics.values())
        assert 0 < record.metrics["train/alpha"] < 1


@pytest.mark.parametrize(
    ("form", "epoch"), [*((form, 1) for form in STATEFUL), ("cam-bilevel", 2), ("kl", 2)]
)
def test_resume_is_bit_identical(form: str, epoch: int, distil: Specify) -> None:
    pairs = (*CNN, "training.epochs=3", *STATEFUL[form])
    whole, broken = (distil(*pairs, folder=folder) for folder in ("whole", "broken"))
    records = records_of(whole)
    records_of(broken, dies_after=epoch)
    again = records_of(broken)
    assert [record.epoch for record in again] == list(range(epoch, 4))
    assert everything(broken) == everything(whole)
    for mine, ours in zip(again, records[epoch - 1 :], strict=True):
        names = [
            name
            for name in ours.metrics
            if name.startswith(("train/", "validation/", "test/")) and "per_second" not in name
        ]
        assert {name: mine.metrics[name] for name in names} == {
            name: ours.metrics[name] for name in names
        }


@pytest.mark.parametrize(
    "form", ["raw", "uncertainty", "entropy", "bayes", "bilevel", "ratio", "kl", "acc", "cam"]
)
def test_restored_state_differs_from_the_initial_one(form: str, distil: Specify) -> None:
    """Otherwise the test above would have no effect."""
    first, later = (
        distil(*CNN, f"training.epochs={epochs}", *STATEFUL[form], folder=str(epochs))
        for epochs in (1, 3)
    )
    records_of(first), records_of(later)
    one, other = saved(first).method, saved(later).method
    assert set(one) == set(other) and one
    assert any(not torch.equal(value, other[key]) for key, value in one.items())
    assert bits(one) != bits(other)


@pytest.mark.parametrize("form", ["raw", "bilevel", "cam", "cam-bilevel"])
def test_saved_student_holds_no_parameters_of_the_method(form: str, distil: Specify) -> None:
    spec, plain = (
        distil(*CNN, "training.epochs=1", *STATEFUL[form]),
        distil(*CNN, "training.epochs=1", "method.name=kd", folder="kd"),
    )
    records_of(spec), records_of(plain)
    for file in ("student.safetensors", "best.safetensors"):
        found, expected = (load_file(one.folder / CHECKPOINT / file) for one in (spec, plain))
        assert {key: value.shape for key, value in found.items()} == {
            key: value.shape for key, value in expected.items()
        }
    own = load_file(spec.folder / CHECKPOINT / "method.safetensors")
    assert own and not set(own) & set(found)


def test_resume_with_look_ahead_dropout_and_views_is_bit_identical(distil: Specify) -> None:
    pairs = (
        *MLP,
        "student.dropout=0.3",
        "training.epochs=3",
        "training.gradient_clip=0.5",
        *STATEFUL["cam-bilevel"],
    )
    whole, broken = (distil(*pairs, folder=folder) for folder in ("whole", "broken"))
    records_of(whole)
    records_of(broken, dies_after=1)
    records_of(broken)
    assert everything(broken) == everything(whole)


@pytest.mark.parametrize(("every", "looks"), [(1, 6), (4, 2), (6, 1), (10, 1)])
def test_look_ahead_runs_at_its_interval(
    every: int, looks: int, distil: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[int, float]] = []
    steps = [0]
    look, step = AlphaWeightedMethod.look_ahead, TrainedStudent.step

    def looked(self: AlphaWeightedMethod, ahead: Any) -> None:
        taken.append((steps[0], ahead.learning_rate))
        look(self, ahead)

    def stepped(self: TrainedStudent, batch: Any, answer: Any, progress: float) -> None:
        assert taken[-1][1] == learning_rate(self.recipe, progress) or steps[0] % 6 % every
        steps[0] += 1
        step(self, batch, answer, progress)

    monkeypatch.setattr(AlphaWeightedMethod, "look_ahead", looked)
    monkeypatch.setattr(TrainedStudent, "step", stepped)
    records_of(
        distil(
            *MLP,
            "training.epochs=2",
            "method.name=akd",
            *learnable("bilevel"),
            f"method.alpha_every={every}",
        )
    )
    assert [at for at, _ in taken] == [
        epoch * 6 + look * every for epoch in range(2) for look in range(looks)
    ]


@pytest.mark.parametrize(
    ("form", "looks"), [("raw", []), ("ratio", []), ("cam", []), ("bilevel-often", [2, 2])]
)
def test_methods_without_look_ahead_draw_no_validation_batches(
    form: str, looks: list[int], distil: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial draws one validation batch per look-ahead step of its method, and no other."""
    drawn: list[int] = []
    draw_validation_batches = Batches.draw_validation_batches

    def counted(self: Batches, epoch: int, count: int) -> Iterator[Inputs]:
        drawn.append(count)
        return draw_validation_batches(self, epoch, count)

    monkeypatch.setattr(Batches, "draw_validation_batches", counted)
    records_of(distil(*MLP, "training.epochs=2", *STATEFUL[form]))
    assert drawn == looks


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_alpha_keeps_its_rate_while_the_module_follows_the_schedule(
    schedule: str, distil: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, list[float], list[float]]] = []
    step = TrainedStudent.step

    def recording_step(self: TrainedStudent, batch: Any, answer: Any, progress: float) -> None:
        step(self, batch, answer, progress)
        rate, groups = learning_rate(self.recipe, progress), self.optimizer.param_groups
        seen.append(
            (rate, [group["lr"] for group in groups], [group["weight_decay"] for group in groups])
        )

    monkeypatch.setattr(TrainedStudent, "step", recording_step)
    rates = (
        "training.learning_rate=0.1",
        "method.alpha_learning_rate=0.03",
        "method.cam_learning_rate=0.04",
    )
    recipe = ("training.epochs=2", f"training.schedule={schedule}", "training.weight_decay=0.01")
    records_of(distil(*MLP, *recipe, *rates, "method.name=akd", *CAM, *learnable("raw")))
    assert len(seen) == 12 and (len({rate for rate, _, _ in seen}) == 12 or schedule == "constant")
    for number, (rate, found, decay) in enumerate(seen):
        share = 1.0 if schedule == "constant" else (1 + math.cos(math.pi * number / 12)) / 2
        assert rate == pytest.approx(0.1 * share)
        assert found == pytest.approx([0.1 * share, 0.03, 0.04 * share]) and decay == [0.01, 0, 0]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_groups_without_a_learning_rate_use_that_of_the_student(name: str) -> None:
    parts = [nn.Linear(1, 1) for _ in range(4)]
    own = [
        ParameterGroup(list(part.parameters()), rate, scheduled)
        for part, rate, scheduled in zip(
            parts[1:], (None, 0.5, 0.5), (True, True, False), strict=True
        )
    ]
    recipe = Training.model_validate({"optimizer": name, "learning_rate": 0.4})
    optimizer = build_optimizer(recipe, parts[0], own)
    set_learning_rates(optimizer, recipe, own, 0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
        [0.1, 0.1, 0.125, 0.5]
    )
