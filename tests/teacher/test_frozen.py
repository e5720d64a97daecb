"""Test that the teacher never changes: its weights, its statistics, its mode."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from methods import METHODS
from methods.capabilities import uses_peers
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.teacher.frozen import WEIGHTS, FrozenTeacher
from orchestrator.training._trainer import train
from orchestrator.training.process_cache import open_teacher

CPU = torch.device("cpu")
SMALL = (
    "data.limit.train=128",
    "data.limit.validation=40",
    "data.limit.test=40",
    "training.epochs=2",
    "training.batch_size=32",
)
ALONE = [name for name, kind in METHODS.items() if not uses_peers(kind(kind.Settings()))]

Specify = Callable[..., TrialSpec]
MakeTeacher = Callable[..., Path]


@pytest.mark.parametrize("mode", ["online", "cached"])
@pytest.mark.parametrize("name", ALONE)
def test_a_trial_does_not_change_the_teacher(
    specify: Specify, make_teacher: MakeTeacher, name: str, mode: str
) -> None:
    spec = specify(
        *SMALL,
        f"method.name={name}",
        f"teacher.mode={mode}",
        "teacher.network.name=cnn",
        "student.name=cnn",
    )
    spec = spec.model_copy(update={"teacher": make_teacher(spec.data, "cnn", width=4)})
    assert spec.teacher is not None
    content = (spec.teacher / WEIGHTS).read_bytes()
    teacher = open_teacher(spec.teacher, CPU, True, None, False)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    assert any("running_mean" in key for key in before)
    train(spec, TrialContext())
    assert open_teacher(spec.teacher, CPU, True, None, False) is teacher, (
        "this is the teacher that the trial used"
    )
    after = teacher.state_dict()
    assert set(after) == set(before) and all(
        torch.equal(after[key], value) for key, value in before.items()
    )
    assert not any(module.training for module in teacher.modules())
    assert (spec.teacher / WEIGHTS).read_bytes() == content


def test_the_teacher_stays_in_eval_mode_inside_a_training_module(
    specify: Specify, make_teacher: MakeTeacher
) -> None:
    spec = specify(*SMALL)
    teacher = FrozenTeacher.open(make_teacher(spec.data, "cnn", width=4), CPU)
    holder = nn.ModuleList([teacher, nn.Dropout()]).train()
    assert holder[1].training and not any(module.training for module in teacher.modules())
    statistics = {key: value.clone() for key, value in teacher.state_dict().items()}
    teacher.train()(torch.randn(8, 1, 8, 8))
    assert all(torch.equal(statistics[key], value) for key, value in teacher.state_dict().items())


def test_the_teacher_gets_no_gradient(specify: Specify, make_teacher: MakeTeacher) -> None:
    spec = specify(*SMALL)
    teacher = FrozenTeacher.open(make_teacher(spec.data, "mlp", width=4), CPU)
    output = teacher(torch.randn(2, 1, 8, 8, requires_grad=True))
    assert not output.logits.requires_grad and not output.features.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_autograd_can_save_the_teacher_outputs(specify: Specify, make_teacher: MakeTeacher) -> None:
    spec = specify(*SMALL)
    teacher_output = FrozenTeacher.open(make_teacher(spec.data, "mlp", width=4), CPU)(
        torch.randn(2, 1, 8, 8)
    )
    student = torch.zeros_like(teacher_output.logits, requires_grad=True)
    (
        student * teacher_output.logits
    ).sum().backward()  # an inference tensor cannot be saved for this
    assert torch.equal(student.grad, teacher_output.logits)  # type: ignore[arg-type]


def test_the_teacher_has_its_own_precision_and_returns_float32(
    specify: Specify, make_teacher: MakeTeacher
) -> None:
    folder, inputs = make_teacher(specify(*SMALL).data, "mlp", width=16), torch.randn(64, 1, 8, 8)
    whole, half = (FrozenTeacher.open(folder, CPU, False, kind) for kind in (None, torch.bfloat16))
    assert (whole.precision, half.precision) == ("float32", "bfloat16, head in float32")
    exact, rounded = whole(inputs).logits, half(inputs).logits
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.05)
    features, weight, bias = (
        half(inputs).features,
        *map(half.network.get_parameter, ("head.weight", "head.bias")),
    )
    assert torch.equal(features, features.bfloat16().float()), "the body computes in bfloat16"
    assert torch.equal(rounded, functional.linear(features, weight, bias)), "the head does not"
