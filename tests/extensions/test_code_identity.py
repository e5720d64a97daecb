"""Test that the identity of code covers what the code uses, and nothing else."""

import functools
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import orchestrator as od
from orchestrator.extensions.code_identity import code_identity
from orchestrator.extensions.decorators import update_identities
from orchestrator.extensions.registry import ENTRIES
from orchestrator.models.build import network_code

LISTED = """
import sys
sys.path.insert(0, sys.argv[1])
import helper
from orchestrator.extensions.code_identity import code_identity
for each in (helper.double, helper.Net(), {"a", "b", "c"}, lambda: helper.double):
    print(code_identity(each))
"""
HELPER = """
SCALE = 2
KINDS = frozenset(["one", "two", "three"])

def double(value):
    return SCALE * value if value not in {"x", "y", "z"} else KINDS

class Net:
    def __init__(self):
        self.activation = double
"""


def adder(number: Any) -> Any:
    def add(value: Any) -> Any:
        return value + number

    return add


def module(attribute: Any) -> nn.Module:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attribute, self.fc = attribute, nn.Linear(2, 2)

    return nn.Sequential(Own())


class Activated(nn.Module):
    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.activation(inputs)
        return output


def traced(activation: Any) -> Any:
    trace: Any = torch.jit.trace
    return trace(Activated(activation), torch.ones(2))


def symbolic(activation: Any) -> nn.Module:
    return torch.fx.symbolic_trace(Activated(activation))


def with_base(number: int) -> type:
    class Base:
        def width(self) -> int:
            return number

    class Own(Base):
        @property
        def height(self) -> int:
            return 2 * number

    return Own


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (adder, (1, 2, "a", functional.relu, torch.relu, torch.zeros_like, adder(1), adder(2))),
        (adder, (torch.zeros(2), torch.ones(2), np.ones(2), torch.float32, [1], {"a": 1})),
        (module, (1, 2.5, functional.relu, functional.gelu, torch.zeros(2), torch.zeros(3))),
        (with_base, (1, 2)),
        (lambda number: functools.partial(adder, number), (1, 2)),
        (lambda number: functools.partial(adder, number=number), (1, 2)),
        (lambda number: functools.lru_cache(adder(number)), (1, 2)),
        (lambda number: torch.no_grad()(adder(number)), (1, 2)),
        (traced, (functional.relu, functional.gelu)),
        (symbolic, (functional.relu, functional.gelu)),
        (lambda mode: nn.Sequential(nn.Upsample(scale_factor=2, mode=mode)), ("nearest", "area")),
    ],
)
def test_each_value_has_its_own_identity(make: Any, values: tuple[Any, ...]) -> None:
    identities = [code_identity(make(value)) for value in values]
    assert len(set(identities)) == len(values)
    assert identities == [code_identity(make(value)) for value in values]


def test_weights_and_the_state_of_a_library_have_no_effect() -> None:
    one, other = module(1), module(1)
    assert code_identity(one) == code_identity(other)
    event = threading.Event()
    before = code_identity(adder(event))
    event.set()
    assert code_identity(adder(event)) == before


def test_code_that_refers_to_itself_has_an_identity() -> None:
    def even(number: int) -> bool:
        return number == 0 or odd(number - 1)

    def odd(number: int) -> bool:
        return number != 0 and even(number - 1)

    values: list[Any] = [even]
    values.append(values)
    assert len({code_identity(each) for each in (even, odd, values)}) == 3


def test_the_identity_is_that_of_another_process(tmp_path: Path) -> None:
    file = tmp_path / "helper.py"

    def identities(text: str, seed: int) -> list[str]:
        file.write_text(text)
        command = [sys.executable, "-B", "-c", LISTED, str(tmp_path)]
        return subprocess.run(
            command,
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()

    one, other = identities(HELPER, 1), identities(f"\n{HELPER}", 2)
    assert len(set(one)) == 4
    # a function that uses the whole module is identified by the file
    assert [first == second for first, second in zip(one, other, strict=True)] == [
        *(True, True, True, False)
    ]


def test_a_registered_function_follows_the_code_that_it_uses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(globals(), "helper", adder(1))

    @od.network("helped")
    def build(classes: int) -> Any:
        return helper(classes)  # type: ignore[name-defined]  # noqa: F821

    before, location = network_code("my/helped"), ENTRIES["network", "my/helped"].location
    update_identities()
    assert network_code("my/helped") == before
    monkeypatch.setitem(globals(), "helper", adder(2))
    update_identities()
    assert network_code("my/helped") != before
    assert ENTRIES["network", "my/helped"].location == location
