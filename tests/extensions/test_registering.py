"""Test what the decorators register: names, settings from signatures, refusals and their places."""

import doctest
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn

import orchestrator as od
from methods import METHODS, CrossEntropy, Settings
from orchestrator.config.objectives import BETTER
from orchestrator.data.datasets import DATASETS
from orchestrator.extensions import decorators
from orchestrator.extensions.registry import ENTRIES, Origin, registering_from
from orchestrator.models.build import MODELS, build, build_on_meta, network_code
from orchestrator.models.network import Network
from orchestrator.training.metric_names import METRICS
from search_spaces import SPACES
from tests.refusal import ANY, refused

SHAPE = (1, 4, 4)


def flat(classes: int, shape: tuple[int, int, int], width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.Linear(width, classes))


def test_a_network_has_the_settings_of_its_signature() -> None:
    @od.network("flat")
    def build_flat(
        classes: int,
        shape: tuple[int, int, int],
        width: Annotated[int, Field(ge=1, le=9)] = 3,
        bias: bool = True,
        mode: Literal["a", "b"] = "a",
        dropout: float = 0.0,
    ) -> nn.Module:
        """Build it.

        Args:
            classes: K.
            shape: (C, H, W).
            width: Units of the hidden layer,
                on two lines.
            bias (bool): Whether there is a bias.
        """
        return flat(classes, shape, width)

    fields = MODELS["my/flat"].settings.model_fields
    assert list(fields) == ["width", "bias", "mode", "dropout"]
    assert fields["width"].description == "Units of the hidden layer, on two lines."
    assert fields["bias"].description == "Whether there is a bias."
    network = build("my/flat", 5, SHAPE, {"width": 4})
    assert network.name == "my/flat"
    assert network(torch.zeros(2, *SHAPE)).features.shape == (2, 4)
    assert network(torch.zeros(2, *SHAPE)).logits.shape == (2, 5)
    for name, value in (("width", 0), ("width", 10), ("mode", "c"), ("bias", 1)):
        with refused(name, value):
            build("my/flat", 5, SHAPE, {name: value})
    with refused("depth", 1, ("width", "bias", "mode", "dropout")):
        build("my/flat", 5, SHAPE, {"depth": 1})


class FlatSettings(Settings):
    width: int = Field(3, ge=1, le=9, description="Units of the hidden layer.")


class FlatModel(BaseModel):
    width: int = Field(3, ge=1, le=9, description="Units of the hidden layer.")


@dataclass
class FlatData:
    width: Annotated[int, Field(ge=1, le=9)] = field(
        default=3, metadata={"description": "Units of the hidden layer."}
    )


@dataclass
class FlatFactory:
    width: Annotated[int, Field(ge=1, le=9)] = field(
        default_factory=lambda: 3, metadata={"description": "Units of the hidden layer."}
    )


@dataclass
class NoDefault:
    width: int


@pytest.mark.parametrize("kind", [FlatSettings, FlatModel, FlatData, FlatFactory])
def test_settings_can_be_a_class(kind: type[Any]) -> None:
    def build_flat(settings: Any, classes: int) -> nn.Module:
        assert isinstance(settings, kind)
        return flat(classes, SHAPE, settings.width)

    build_flat.__annotations__["settings"] = kind
    od.network("flat")(build_flat)
    described = MODELS["my/flat"].settings.model_fields["width"].description
    assert described == "Units of the hidden layer."
    assert build("my/flat", 5, SHAPE, {"width": 7}).head.in_features == 7
    assert build("my/flat", 5, SHAPE, {}).head.in_features == 3
    with refused("width", 10):
        build("my/flat", 5, SHAPE, {"width": 10})


def test_a_class_can_be_a_network() -> None:
    @od.network("class")
    class Flat(nn.Module):
        def __init__(self, classes: int, width: int = 3) -> None:
            super().__init__()
            self.layers = flat(classes, SHAPE, width)

        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = self.layers(inputs)
            return output

    assert build("my/class", 5, SHAPE, {})(torch.zeros(2, *SHAPE)).logits.shape == (2, 5)


def test_a_network_of_the_package_keeps_its_stages() -> None:
    @od.network("built")
    def built(classes: int) -> Network:
        body = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU())
        return Network("built", body, 6, classes, stages=["2"])

    network = build("my/built", 5, SHAPE, {})
    assert network.name == "my/built" and list(network.stages) == ["stage1"]


def test_a_network_that_cannot_be_built_without_memory_is_moved_there() -> None:
    @od.network("reads")
    def reads(classes: int) -> nn.Module:
        module = flat(classes, SHAPE)
        assert torch.linspace(0, 1, 3).tolist()[2] == 1.0
        return module

    torch.manual_seed(0)
    state = torch.get_rng_state()
    network = build_on_meta("my/reads", 5, SHAPE, {})
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert torch.equal(torch.get_rng_state(), state), "the random state stays the same"


def no_default(classes: int, width: int) -> nn.Module:
    return flat(classes, SHAPE, width)


def no_plain_type(classes: int, widths: tuple[int, ...] = (3,)) -> nn.Module:
    return flat(classes, SHAPE, widths[0])


def default_out_of_range(classes: int, width: Annotated[int, Field(ge=5)] = 3) -> nn.Module:
    return flat(classes, SHAPE, width)


def no_default_in_a_class(settings: NoDefault, classes: int) -> nn.Module:
    return flat(classes, SHAPE, settings.width)


def positional(classes: int, *widths: int) -> nn.Module:
    return flat(classes, SHAPE)


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (no_default, "width has no default"),
        (no_default_in_a_class, "width has no default"),
        (no_plain_type, "widths must be"),
        (default_out_of_range, "width"),
        (positional, "widths cannot be passed by its name"),
        (nn.Identity(), "cannot"),
    ],
)
def test_a_signature_without_settings_is_refused_with_its_line(function: Any, problem: str) -> None:
    with refused("--code") as caught, registering_from(Origin("test", "1")):
        od.network("bad")(function)
    assert problem in str(caught.value) and "test_registering.py:" in str(caught.value)
    assert "my/bad" not in MODELS and not ENTRIES


@pytest.mark.parametrize(
    ("output", "field", "got"),
    [
        (lambda inputs: inputs.flatten(1), "name", (1, 16)),
        (lambda inputs: [inputs], "name", ANY),
        (lambda inputs: inputs @ torch.zeros(9, 9), "input_size", ANY),
    ],
)
def test_a_network_with_other_outputs_is_refused_with_its_line(
    output: Any, field: str, got: Any
) -> None:
    class Wrong(nn.Module):
        def forward(self, inputs: Tensor) -> Any:
            return output(inputs)

    with registering_from(Origin("test", "1")):
        od.network("wrong")(lambda classes: Wrong())
    with refused(field, got) as caught:
        build("my/wrong", 5, SHAPE, {})
    assert "test_registering.py:" in str(caught.value) and "my/wrong" in str(caught.value)


def test_a_forward_that_fails_is_refused_with_its_line_and_without_other_advice() -> None:
    class Wrong(nn.Module):
        def forward(self, inputs: Tensor) -> Any:
            return inputs / (1 // 0)

    od.network("wrong")(lambda classes: Wrong())
    with refused("name", "my/wrong") as caught:
        build("my/wrong", 5, SHAPE, {})
    line = Wrong.forward.__code__.co_firstlineno + 1
    assert f"test_registering.py:{line}" in str(caught.value)
    assert "ZeroDivisionError" in str(caught.value) and "input_size" not in str(caught.value)


def test_a_builder_that_fails_is_refused_with_its_line() -> None:
    def fails(classes: int) -> nn.Module:
        raise RuntimeError("no such layer")

    od.network("fails")(fails)
    with refused("name", "my/fails") as caught:
        build("my/fails", 5, SHAPE, {})
    assert "RuntimeError: no such layer" in str(caught.value)
    assert f"test_registering.py:{fails.__code__.co_firstlineno + 1}" in str(caught.value)
    od.network("none")(lambda classes: None)
    with refused("name", "NoneType", "torch.nn.Module"):
        build("my/none", 5, SHAPE, {})


@pytest.mark.parametrize("name", ["", "a.b", "1a", "a/b", "a b", "x" * 65, 3])
def test_names_are_checked(name: Any) -> None:
    with refused("--code", name):
        od.network(name)(flat)


def test_a_prefix_is_added_once() -> None:
    od.network("my/flat")(flat)
    assert (
        "my/flat" in MODELS
        and network_code("my/flat") == ENTRIES["network", "my/flat"].origin.identity
    )


def test_a_name_is_taken_once_except_in_a_notebook() -> None:
    first, second = Origin("first.py", "1"), Origin("second.py", "2")
    with registering_from(first):
        od.network("flat")(flat)
    with registering_from(second), refused("--code", "my/flat") as caught:
        od.network("flat")(flat)
    assert str(caught.value).count("test_registering.py:") == 2, "both places are named"
    assert network_code("my/flat") == "1"
    od.dataset("flat")(lambda: None)  # another kind
    with registering_from(Origin("Python", "3", replaces=True)):
        od.metric("same")(lambda logits, labels: 1.0)
    with registering_from(Origin("Python", "4", replaces=True)):
        od.metric("same")(lambda logits, labels: 2.0)
    assert ENTRIES["metric", "my/same"].origin.identity == "4"


def test_a_method_is_registered_with_its_space() -> None:
    @od.method("plain", points=[{"training.learning_rate": 0.1}])
    class Plain(CrossEntropy):
        """Plain training."""

    assert METHODS["my/plain"] is Plain
    assert SPACES["my/plain"].points == ({"training.learning_rate": 0.1},)
    with refused("--code", "other"):
        od.method("other")(nn.Module)  # type: ignore[type-var]
    assert "my/other" not in METHODS


def test_a_metric_is_an_objective_with_its_direction() -> None:
    od.metric("up", direction="maximize")(lambda logits, labels: 0.0)
    od.metric("both")(lambda logits, labels: 0.0)
    assert BETTER["validation/my/up"] == ("maximize",)
    assert BETTER["validation/my/both"] == ("maximize", "minimize")
    assert {f"{part}/my/up" for part in ("validation", "test/best", "test/last")} <= set(METRICS)
    with refused("--code", "down"):
        od.metric("down", direction="lower")  # type: ignore[arg-type]


def test_examples_of_the_decorators_run() -> None:
    """A class of an interactive session has no source text, but its functions have."""
    result = doctest.testmod(decorators)
    assert result.attempted > 10 and result.failed == 0
    identities = [entry.origin.identity for entry in ENTRIES.values()]
    assert len(set(identities)) == len(identities) == 5
    with refused("--code"):
        od.network("unknown")(without_text)


# a class without functions and text, as in an interactive session
without_text = type("Nothing", (nn.Module,), {})


def test_public_names_are_those_of_the_package() -> None:
    names = {name: getattr(od, name).__name__ for name in od.__all__}  # some are packages
    assert all(full.rpartition(".")[2] == name for name, full in names.items())
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = od.nothing  # type: ignore[attr-defined]


def test_a_data_set_without_settings_refuses_them() -> None:
    od.dataset("none")(lambda: None)
    assert DATASETS["my/none"].settings is not None
    assert not DATASETS["my/none"].settings.model_fields
