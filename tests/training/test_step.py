"""Test that a step calls only the hooks and contexts that its trial uses."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trials_run import records_of

from orchestrator.training import _distillation_module
from orchestrator.training.capabilities.component import Component, StepHooks
from orchestrator.training.capabilities.components import COMPONENTS
from orchestrator.training.capabilities.look_ahead import LookAheadComponent
from orchestrator.training.capabilities.peers import PeersComponent
from orchestrator.training.capabilities.plots import PlotsComponent
from tests.conftest import Specify

SMALL = (
    "data.limit.train=64",
    "data.augmentation=none",
    "student.name=mlp",
    "student.width=4",
    "training.epochs=1",
    "training.batch_size=16",
)
TRIAL: Any = SimpleNamespace()


def hooks_of(*kinds: type[Component]) -> StepHooks:
    return StepHooks([kind(TRIAL) for kind in kinds])


def test_only_implemented_hooks_are_called() -> None:
    plain = hooks_of(PlotsComponent)
    assert not (plain.on_step_start or plain.on_student_step or plain.on_step_end)
    ahead = hooks_of(LookAheadComponent, PlotsComponent)
    assert len(ahead.on_step_start) == 1 and not ahead.on_student_step and not ahead.on_step_end
    peers = hooks_of(PeersComponent)
    assert len(peers.on_step_start) == len(peers.on_student_step) == len(peers.on_step_end) == 1


def test_hooks_keep_the_order_of_the_components() -> None:
    calls: list[str] = []

    class First(Component):
        def on_step_end(self) -> None:
            """Note the call."""
            calls.append("first")

    class Second(First):
        def on_step_end(self) -> None:
            """Note the call."""
            calls.append("second")

    class Inherited(First):
        pass

    for end in hooks_of(First, PlotsComponent, Second, Inherited).on_step_end:
        end()
    assert calls == ["first", "second", "first"]


def test_every_component_has_its_hooks() -> None:
    hooks = hooks_of(*COMPONENTS)
    for name in ("on_step_start", "on_student_step", "on_step_end"):
        implementing = [kind for kind in COMPONENTS if name in vars(kind)]
        assert [type(hook.__self__) for hook in getattr(hooks, name)] == implementing
        assert implementing, f"no component has {name}: the hook can go"


@contextlib.contextmanager
def refused(*_: Any, **__: Any) -> Iterator[None]:
    raise AssertionError("the trial does not use this context")
    yield


def test_a_float32_trial_enters_no_autocast_and_records_no_maps(
    distil: Specify, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = distil(*SMALL, "method.name=kd", "teacher.mode=cached")
    records_of(spec)  # evaluates the teacher, in whose precision autocast is a choice
    again = spec.model_copy(update={"folder": spec.folder.with_name("again")})
    monkeypatch.setattr(_distillation_module, "recorded_maps", refused)
    autocast = torch.autocast

    def counted(*values: Any, **named: Any) -> Any:
        assert torch.is_inference_mode_enabled(), "a context of the student's step"
        return autocast(*values, **named)

    monkeypatch.setattr(torch, "autocast", counted)
    assert len(records_of(again)) == 1


def test_an_optimizer_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch\n"
        "from orchestrator.config.schema import Training\n"
        "from orchestrator.training._optimization import build_optimizer, clear_gradients\n"
        "for name in ('sgd', 'adamw'):\n"
        "    layer = torch.nn.Linear(2, 2)\n"
        "    optimizer = build_optimizer(Training(optimizer=name), layer, [])\n"
        "    layer(torch.ones(1, 2)).sum().backward()\n"
        "    optimizer.step()\n"
        "    clear_gradients(optimizer)\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
