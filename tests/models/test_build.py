"""Test the invariants of every network, refusals, and sizes against a count by hand."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from methods import Output
from methods.settings import allowed_values
from orchestrator.extensions.network_checks import network_checks
from orchestrator.models.build import MODELS, build
from orchestrator.models.network import Network
from tests.families import mark_networks
from tests.refusal import refused

every_model = pytest.mark.parametrize("name", mark_networks())
# test_traceable.py tests the export
CHECKS = [name for name in network_checks("mlp", 10, (3, 16, 16)) if name != "export"]
RESNETS = ("resnet8", "resnet20", "resnet32", "resnet56", "resnet110", "resnet8x4", "resnet32x4")
PUBLISHED = {
    "resnet20": 278_324,
    "resnet56": 861_620,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
}


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def small(
    name: str, classes: int = 10, shape: tuple[int, int, int] = (3, 16, 16), **settings: Any
) -> Network:
    torch.manual_seed(0)
    return build(name, classes, shape, settings)


def resnet_size(name: str, classes: int) -> int:
    """Count convolutions, two numbers per normalised channel, 1x1 shortcuts, and the classifier."""
    depth, wide, _ = name.removeprefix("resnet").partition("x")
    blocks = (int(depth) - 2) // 6
    first, *stages = (32, 64, 128, 256) if wide else (16, 16, 32, 64)
    total = 27 * first + 2 * first
    before = first
    for position, channels in enumerate(stages):
        total += (
            9 * before * channels + (2 * blocks - 1) * 9 * channels**2 + 2 * blocks * 2 * channels
        )
        total += before * channels + 2 * channels if position or before != channels else 0
        before = channels
    return total + before * classes + classes


@every_model
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 64, 64), (1, 72, 64)])
def test_gives_logits_and_features_for_large_small_and_grey_images(
    name: str, shape: tuple[int, int, int]
) -> None:
    network = small(name, 7, shape).eval()
    with torch.no_grad():
        output = network(torch.randn(2, *shape))
    assert isinstance(output, Output)
    assert output.logits.shape == (2, 7)
    assert output.features.shape == (2, network.head.in_features)
    assert output.logits.isfinite().all()


@every_model
def test_logits_are_linear_in_the_features(name: str) -> None:
    network = small(name).eval()
    output = network(torch.randn(3, 3, 16, 16))
    expected = output.features @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(output.logits, expected)


@every_model
@pytest.mark.parametrize("check", CHECKS)
def test_network_passes_the_check(name: str, check: str) -> None:
    network_checks(name, 10, (3, 16, 16))[check]()


@every_model
def test_can_be_traced(name: str) -> None:
    network = small(name).eval()
    inputs = torch.randn(2, 3, 16, 16)
    traced = torch.fx.symbolic_trace(network)
    torch.testing.assert_close(traced(inputs).logits, network(inputs).logits)


@pytest.mark.parametrize("name", RESNETS)
@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_resnet_has_the_size_of_its_design(name: str, classes: int) -> None:
    assert parameters(small(name, classes, (3, 32, 32))) == resnet_size(name, classes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_cifar_resnet_has_the_published_size(name: str) -> None:
    assert parameters(small(name, 100, (3, 32, 32))) == PUBLISHED[name]


@pytest.mark.parametrize("name", RESNETS)
def test_cifar_resnet_ends_at_a_quarter_of_the_side(name: str) -> None:
    body = small(name).body
    assert isinstance(body, nn.Sequential)
    assert body[:-2](torch.randn(1, 3, 32, 32)).shape[2:] == (8, 8)


@pytest.mark.parametrize(
    ("name", "imagenet"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("mobilenet_v2", 3_504_872),
    ],
)
def test_torchvision_network_has_its_published_size(name: str, imagenet: int) -> None:
    assert parameters(small(name, 1000, (3, 224, 224))) == imagenet


def test_small_images_get_a_gentler_stem() -> None:
    for name, last in (("resnet18", "layer4"), ("mobilenet_v2", "features")):
        for side, expected in ((32, 4), (128, 4)):
            body = small(name, shape=(3, side, side)).body.eval()
            seen: list[torch.Size] = []
            getattr(body, last).register_forward_hook(
                lambda _, __, out, seen=seen: seen.append(out.shape)
            )
            body(torch.randn(1, 3, side, side))
            assert seen[0][2:] == (expected, expected), name


def test_mlp_has_the_configured_layers() -> None:
    network = small("mlp", shape=(1, 8, 8), width=5, depth=3, dropout=0.5)
    assert [
        layer.out_features for layer in network.body.modules() if isinstance(layer, nn.Linear)
    ] == [5, 5, 5]
    assert sum(isinstance(layer, nn.Dropout) for layer in network.body.modules()) == 3
    assert parameters(network) == 64 * 5 + 5 + 2 * (25 + 5) + 5 * 10 + 10


def test_cnn_has_the_configured_width() -> None:
    network = small("cnn", width=4)
    assert network.head.in_features == 16
    assert parameters(network) == 9 * (3 * 4 + 4 * 8 + 8 * 16) + 2 * (4 + 8 + 16) + 16 * 10 + 10


@pytest.mark.parametrize(("width", "channels"), [(4, 1), (32, 3)])
def test_separable_cnn_has_the_size_of_its_design(width: int, channels: int) -> None:
    network = small("separable_cnn", shape=(channels, 8, 8), width=width)
    total = 9 * channels * width + 2 * width
    for inputs, outputs in ((1, 2), (2, 4), (4, 4), (4, 8)):
        before, after = inputs * width, outputs * width
        total += 9 * before + 2 * before + before * after + 2 * after  # depth-wise, then point-wise
    assert parameters(network) == total + 8 * width * 10 + 10
    assert parameters(small("separable_cnn")) < parameters(small("resnet8"))


def test_separable_cnn_filters_every_channel_by_itself() -> None:
    network = small("separable_cnn", width=4).eval()
    assert isinstance(network.body, nn.Sequential)
    deep = [layer for layer in network.body if isinstance(layer, nn.Conv2d)][1::2]
    assert [layer.stride for layer in deep] == [(1, 1), (2, 2), (1, 1), (2, 2)]
    for layer in deep:
        seen = torch.zeros(1, layer.in_channels, 8, 8)
        seen[:, 1] = 1
        assert layer(seen).abs().sum((0, 2, 3)).nonzero().flatten().tolist() == [1]
    assert network.body[:-2](torch.randn(1, 3, 32, 32)).shape[1:] == (32, 8, 8)


@pytest.mark.parametrize(
    ("wrong", "meant"), [("resnt20", "resnet20"), ("MLP", "mlp"), ("mobilenet", "mobilenet_v2")]
)
def test_unknown_network_is_refused_with_the_known(wrong: str, meant: str) -> None:
    with refused("name", wrong, tuple(MODELS)) as caught:
        small(wrong)
    assert meant in str(caught.value)


@every_model
def test_unknown_setting_is_refused_with_those_there_are(name: str) -> None:
    known = MODELS[name].settings.model_fields
    with refused("widht", 3, tuple(known)) as caught:
        small(name, widht=3)
    assert name in str(caught.value) and all(key in str(caught.value) for key in known)
    assert known or "none" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("mlp", "width", 0),
        ("mlp", "depth", 0),
        ("mlp", "dropout", 1.0),
        ("mlp", "width", 1.5),
        ("cnn", "width", 0),
        ("separable_cnn", "width", 0),
    ],
)
def test_setting_outside_its_range_is_refused(name: str, key: str, value: Any) -> None:
    with refused(key, value, allowed_values(MODELS[name].settings.model_fields[key])):
        small(name, **{key: value})


def test_torchvision_and_the_compiler_are_imported_only_if_needed() -> None:
    code = (
        "import sys; from orchestrator.models.build import build_on_meta; "
        "build_on_meta('resnet20', 10, (3, 32, 32), {}); "
        "sys.exit('torchvision' in sys.modules or 'torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
