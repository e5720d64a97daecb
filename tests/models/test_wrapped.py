"""Test that any module that returns logits becomes a network with exact features."""

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from orchestrator.models.meta import meta_device
from orchestrator.models.network import Network, count_features, head_tensors
from orchestrator.models.weights import network_fingerprint
from orchestrator.models.wrapped import IdentityHead, as_network, rename_tensors
from tests.refusal import refused

CLASSES, SHAPE = 5, (3, 8, 8)


class Small(nn.Module):
    """Network of a user: a convolution, batch norm, dropout and a linear classifier."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, CLASSES, bias=bias)

    def forward(self, images: Tensor) -> Any:
        return self.finish(self.fc(self.drop(self.layer(images).mean((2, 3)))))

    def finish(self, logits: Tensor) -> Any:
        return logits


class InObject(Small):
    def finish(self, logits: Tensor) -> Any:
        return SimpleNamespace(logits=logits, loss=None)


class InMapping(Small):
    def finish(self, logits: Tensor) -> Any:
        return {"hidden": None, "logits": logits}


class InTuple(Small):
    def finish(self, logits: Tensor) -> Any:
        return logits, logits.sum()


class Scaled(Small):
    def finish(self, logits: Tensor) -> Any:
        return logits / 2


class Convolutional(nn.Module):
    """Network whose classifier is a 1x1 convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.fc = nn.Conv2d(4, CLASSES, 1)

    def forward(self, images: Tensor) -> Any:
        return self.fc(self.layer(images).relu().mean((2, 3), keepdim=True)).flatten(1)


KINDS = (Small, InObject, InMapping, InTuple, Scaled, Convolutional)


def images(samples: int = 3) -> Tensor:
    return torch.randn(samples, *SHAPE, generator=torch.Generator().manual_seed(1))


def wrapped(kind: Any, **settings: Any) -> tuple[nn.Module, Network]:
    """Return a module in eval mode, and the network of its copy."""
    torch.manual_seed(0)
    module = kind(**settings).eval()
    return module, as_network(copy.deepcopy(module), "my/net", CLASSES, SHAPE)


def logits_of(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, tuple):
        return output[0]
    return output["logits"] if isinstance(output, dict) else output.logits


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_module_and_linear_in_the_features(kind: Any) -> None:
    module, network = wrapped(kind)
    output = network(images())
    torch.testing.assert_close(output.logits, logits_of(module(images())), rtol=1e-6, atol=1e-7)
    weight, bias = head_tensors(network)
    torch.testing.assert_close(output.features @ weight.T + bias, output.logits)
    assert count_features(network) == output.features.shape[1] == network.head.in_features


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_have_the_names_of_the_module(kind: Any) -> None:
    module, network = wrapped(kind)
    renamed = rename_tensors(dict(module.state_dict()), network.classifier)
    assert network.classifier == ("" if kind is Scaled else "fc")
    assert network_fingerprint(renamed) == network_fingerprint(network.state_dict())


def test_features_are_the_input_of_the_classifier() -> None:
    module, network = wrapped(Small)
    expected = module.drop(module.layer(images()).mean((2, 3)))  # type: ignore[operator]
    assert torch.equal(network(images()).features, expected)
    _, without = wrapped(Scaled)
    assert isinstance(without.head, IdentityHead)
    output = without(images())
    assert torch.equal(output.features, output.logits)


def test_missing_bias_is_zero_and_not_a_weight() -> None:
    module, network = wrapped(Small, bias=False)
    assert torch.equal(network(images()).logits, module(images()))
    assert "head.bias" not in network.state_dict()
    assert "head.bias" not in dict(network.named_parameters())
    assert not head_tensors(network)[1].any()


@pytest.mark.parametrize("kind", [Small, Scaled])
def test_other_parameters_and_copies_are_used(kind: Any) -> None:
    _, network = wrapped(kind)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2)
    state = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    expected = other(images()).logits
    assert torch.equal(functional_call(network, state, (images(),)).logits, expected)
    assert torch.equal(head_tensors(network, state)[0], head_tensors(other)[0])
    assert not torch.equal(network(images()).logits, expected)


def test_check_changes_neither_modes_nor_buffers_nor_the_random_state() -> None:
    module = Small().train()
    module.drop.eval()
    before, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    network = as_network(module, "my/net", CLASSES, SHAPE)
    assert torch.equal(torch.get_rng_state(), random)
    assert network.training and module.layer.training and not module.drop.training
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_stages_without_a_map_are_left_out() -> None:
    network = as_network(Small(), "my/net", CLASSES, SHAPE, stages=["layer.0", "layer", "drop"])
    assert network.stages == {"stage1": "body.layer.0", "stage2": "body.layer"}


def test_network_is_built_on_meta_as_elsewhere() -> None:
    _, network = wrapped(Small)
    with torch.device("meta"):
        shapes = as_network(Small(), "my/net", CLASSES, SHAPE).state_dict()
    assert {key: value.shape for key, value in shapes.items()} == {
        key: value.shape for key, value in network.state_dict().items()
    }


def test_a_single_layer_has_features_within_a_block_of_meta_tensors() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES))
    with meta_device():
        network = as_network(module, "my/net", CLASSES, (3, 8, 8))
    assert network.classifier == "1"


def test_a_network_stays_itself() -> None:
    network = Network("my/net", nn.Flatten(), 192, CLASSES)
    assert as_network(network, "other", CLASSES, SHAPE) is network


def test_other_classes_are_refused_with_both_shapes() -> None:
    with refused("name", (1, CLASSES), (1, 7)) as caught:
        as_network(Small(), "my/net", 7, SHAPE)
    assert "my/net" in str(caught.value)


def test_images_that_the_module_does_not_accept_are_refused() -> None:
    with refused("input_size", (1, 8, 8)) as caught:
        as_network(Small(), "my/net", CLASSES, (1, 8, 8))
    assert "my/net" in str(caught.value) and "\n" not in str(caught.value)


def test_network_may_divide_by_the_norm_of_the_image() -> None:
    class Normalising(Small):
        def forward(self, images: Tensor) -> Any:
            return super().forward(images / images.norm())

    module, network = wrapped(Normalising)
    torch.testing.assert_close(network(images()).logits, module(images()))


def test_classifier_that_cannot_be_replaced_is_refused() -> None:
    class Inspecting(Small):
        def forward(self, images: Tensor) -> Any:
            features = self.layer(images).mean((2, 3))
            return self.fc(features if isinstance(self.fc, nn.Linear) else features + 1)

    with refused("name", "fc"):
        as_network(Inspecting(), "my/net", CLASSES, SHAPE)
