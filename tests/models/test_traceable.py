"""Test that exported networks agree for any batch size, and compiled ones compile per shape."""

from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch.nn import functional

from methods import Output
from orchestrator.models._torchvision_models import PARTS
from orchestrator.models.build import MODELS, build
from orchestrator.models.network import Network
from orchestrator.training._compilation import compile_in_place
from tests.families import DEEPER, mark_networks

CLASSES = 7
# A step of resnet110 takes 9 s to compile here, one of resnet56 5 s. Both repeat the block of
# resnet8, resnet32x4 that of resnet8x4, and resnet34 that of resnet18. resnet50 has equal layers.
LONG = {"resnet20", "resnet32", "resnet56", "resnet110", "resnet32x4", "resnet34", "resnet50"}
REPEATED = {*LONG, *DEEPER} - {"resnet50"}  # the blocks of the others are exported too


@pytest.fixture(autouse=True)
def fresh() -> Any:
    """Reset the compiler before and after a test."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def shape_of(name: str) -> tuple[int, int, int]:
    return (3, 32, 32) if name in PARTS else (1, 8, 8)


def made(name: str, seed: int = 0, **settings: Any) -> Network:
    torch.manual_seed(seed)
    return build(name, CLASSES, shape_of(name), settings)


def images(name: str, samples: int) -> Tensor:
    return torch.randn(samples, *shape_of(name), generator=torch.Generator().manual_seed(samples))


class Counting:
    """A compiler that runs its graphs unchanged and counts its calls."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.graphs += 1
        return graph.forward


def step(network: nn.Module, inputs: Tensor) -> Tensor:
    """Take one step of SGD in train mode, and return its loss."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network.train()
    torch.manual_seed(5)  # dropout
    output = network(inputs)
    loss = (
        functional.cross_entropy(output.logits, torch.arange(len(inputs)) % CLASSES)
        + output.features.square().mean()
    )
    loss.backward()
    optimizer.step()
    found: Tensor = loss.detach()
    return found


@pytest.mark.parametrize("name", mark_networks(REPEATED))
def test_exported_network_supports_other_batch_sizes(name: str) -> None:
    network = made(name).eval()
    dynamic = {"inputs": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(network, (images(name, 3),), dynamic_shapes=dynamic).module()
    for samples in (1, 5):
        with torch.no_grad():
            expected, found = network(images(name, samples)), exported(images(name, samples))
        assert isinstance(found, Output) and found.logits.shape == (samples, CLASSES)
        torch.testing.assert_close(found.logits, expected.logits)
        torch.testing.assert_close(found.features, expected.features)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in {*LONG, *DEEPER}])
def test_compiled_network_trains_the_same_step(name: str) -> None:
    eager, compiled = made(name), made(name)
    keys = list(eager.state_dict())
    compiled.compile(backend="eager", fullgraph=True)
    losses = [step(network, images(name, 4)) for network in (eager, compiled)]
    assert losses[0].isfinite() and torch.allclose(losses[0], losses[1], rtol=1e-6, atol=0)
    assert list(compiled.state_dict()) == keys and [
        key for key, _ in compiled.named_parameters()
    ] == [key for key, _ in eager.named_parameters()]
    for key, value in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[key], value, msg=key)


def test_dropout_is_drawn_as_without_compilation() -> None:
    eager, compiled = made("mlp", dropout=0.5), made("mlp", dropout=0.5)
    compiled.compile(backend="eager", fullgraph=True)
    assert torch.equal(step(eager, images("mlp", 6)), step(compiled, images("mlp", 6)))


# the step of mobilenet_v2 is compiled once by the test of each network above
@pytest.mark.parametrize(
    "name", ["mlp", "cnn", "resnet8", pytest.param("mobilenet_v2", marks=pytest.mark.slow)]
)
def test_a_second_network_of_the_same_shape_is_not_compiled_again(name: str) -> None:
    compiler, losses = Counting(), []
    for seed in range(2):
        network = made(name, seed)
        network.compile(backend=compiler, fullgraph=True)
        losses.append(step(network, images(name, 4)))
        assert compiler.graphs == 1
        assert torch.allclose(
            losses[-1], step(made(name, seed), images(name, 4)), rtol=1e-6, atol=0
        ), "with weights of its own"
    assert not torch.equal(*losses)


def use(network: nn.Module) -> None:
    """Act as a trial: steps, and an evaluation whose last batch is short."""
    step(network, images("mlp", 16))
    network.eval()
    with torch.no_grad():
        for samples in (16, 5, 16, 9):
            network(images("mlp", samples))


def test_trial_of_a_known_shape_does_not_compile() -> None:
    compiler = Counting()
    for seed in range(4):
        network = made("mlp", seed)
        network.compile(backend=compiler)
        use(network)
        assert compiler.graphs == 3, (
            "one of steps, one of an evaluation, one of batches of any size"
        )


def test_every_network_of_a_process_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group's worker serves its whole sweep; searching `student.width` gives many shapes."""
    compiler, compiled, inner = Counting(), [], nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda network: inner(network, backend=compiler))
    for width in range(4, 10):
        before = compiler.graphs
        network = made("mlp", width=width)
        compile_in_place(network)
        use(network)
        compiled.append(compiler.graphs > before)
    assert compiled == [True] * 6
