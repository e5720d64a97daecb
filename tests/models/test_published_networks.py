"""Test the networks of the published benchmarks against definitions of their own, and counts."""

from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchestrator.models.build import build, build_on_meta
from orchestrator.models.checkpoint_files import read_checkpoint
from orchestrator.models.feature_maps import map_shapes, recorded_maps
from orchestrator.models.network import Network
from orchestrator.models.weight_import import Wanted, convert_checkpoint
from orchestrator.models.weights import load_weights
from tests.families import DEEPER
from tests.models.published import NETWORKS
from tests.refusal import refused

CLASSES = 100
# Parameters for 100 classes, counted from the modules of RepDistiller (commit b84f547).
COUNTS = {
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "shuffle_v1": 949_258,
    "shuffle_v2": 1_355_528,
    "mobilenet_v2_half": 812_836,
    "resnet50": 23_705_252,
}
# Parameters for 1,000 classes. Those of the ResNets are in torchvision's table of weights; those of
# the others are the 4.2 million of Howard et al. 2017 (table 8), and the 5 and 22 million of
# Touvron et al. 2021 (table 1). count_mobilenet_v1 and count_vit add them up from the layers.
IMAGENET = {
    "timm/mobilenetv1_100": 4_231_976,
    "timm/deit_tiny_patch16_224": 5_717_416,
    "timm/deit3_small_patch16_224": 22_059_496,
    **{f"{origin}/resnet18": 11_689_512 for origin in ("timm", "torchvision")},
    **{f"{origin}/resnet34": 21_797_672 for origin in ("timm", "torchvision")},
    **{f"{origin}/resnet50": 25_557_032 for origin in ("timm", "torchvision")},
}
SLOW = (*DEEPER, "resnet50")
every_network = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in COUNTS]
)


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def transplanted(name: str, module: nn.Module, classes: int = CLASSES, side: int = 32) -> Network:
    """Return the project's network with the tensors of a module, in their order."""
    network = build(name, classes, (3, side, side), {})
    tensors = module.state_dict().values()
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    return network


def images(side: int = 32, samples: int = 4) -> Tensor:
    return torch.randn(samples, 3, side, side, generator=torch.Generator().manual_seed(side))


def test_each_published_network_has_a_definition_of_its_own() -> None:
    assert set(COUNTS) == set(NETWORKS)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_for_a_hundred_classes(name: str) -> None:
    with torch.device("meta"):
        network, module = build(name, CLASSES, (3, 32, 32), {}), NETWORKS[name].make(CLASSES)
    assert count_parameters(network) == count_parameters(module) == COUNTS[name]
    kinds = [
        [(name.rpartition(".")[2], tensor.shape) for name, tensor in each.state_dict().items()]
        for each in (network, module)
    ]
    assert kinds[0] == kinds[1], "--match order compares these"


@pytest.mark.parametrize("name", IMAGENET)
def test_parameters_of_the_networks_for_imagenet(name: str) -> None:
    if name.startswith("timm/"):
        pytest.importorskip("timm")
    network = build_on_meta(name, 1000, (3, 224, 224), {})
    assert count_parameters(network) == IMAGENET[name]


def count_vit(width: int, positions: int, has_layer_scale: bool) -> int:
    """Count 16x16 patches, 12 blocks of attention and a perceptron of four widths, and the head."""
    block = 12 * width**2 + 13 * width + (2 * width if has_layer_scale else 0)
    tokens = (3 * 16 * 16 + 1) * width + width + positions * width
    return tokens + 12 * block + 2 * width + 1000 * width + 1000


def count_mobilenet_v1() -> int:
    """Count a 3x3 stem and 13 depth-wise separable layers, each with two batch norms."""
    channels = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
    layers = sum(
        11 * inputs + inputs * outputs + 2 * outputs for inputs, outputs in pairwise(channels)
    )
    return 27 * 32 + 2 * 32 + layers + 1024 * 1000 + 1000


def test_counts_for_imagenet_are_those_of_the_papers_layers() -> None:
    assert count_mobilenet_v1() == IMAGENET["timm/mobilenetv1_100"]
    assert count_vit(192, 197, has_layer_scale=False) == IMAGENET["timm/deit_tiny_patch16_224"]
    # DeiT III adds layer scale, and has no position of the class token (Touvron et al. 2022)
    assert count_vit(384, 196, has_layer_scale=True) == IMAGENET["timm/deit3_small_patch16_224"]


@every_network
@pytest.mark.parametrize("training", [False, True])
def test_logits_and_maps_are_those_of_the_definition(name: str, training: bool) -> None:
    module = NETWORKS[name].trained(CLASSES).train(training)
    network = transplanted(name, module).train(training)
    with torch.no_grad(), recorded_maps(network, list(network.stages)) as maps:
        output = network(images())
        expected_maps, logits = NETWORKS[name].run(module, images())
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-5)
    for found, expected in zip(maps.values(), expected_maps, strict=True):
        torch.testing.assert_close(found, expected)
    statistics = zip(network.state_dict().values(), module.state_dict().values(), strict=True)
    for found, expected in statistics:  # those of batch norm changed in training
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["wrn_16_1", "vgg8", "mobilenet_v2_half", "shuffle_v1"])
def test_larger_images_give_the_logits_of_the_definition(name: str) -> None:
    module = NETWORKS[name].trained(7)
    with torch.no_grad():
        output = transplanted(name, module, 7, side=64).eval()(images(64, samples=2))
        _, logits = NETWORKS[name].run(module, images(64, samples=2))
    torch.testing.assert_close(output.logits, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", COUNTS)
def test_grey_images_of_28_pixels(name: str) -> None:
    network = build_on_meta(name, 5, (1, 28, 28), {})
    output = network(torch.empty(2, 1, 28, 28, device="meta"))
    assert output.logits.shape == (2, 5)
    assert output.features.shape == (2, network.head.in_features)
    assert all(0 not in shape for shape in map_shapes(network, (1, 28, 28), ["stage3"]).values())


def test_vgg_refuses_images_that_its_poolings_cannot_halve() -> None:
    with refused("input_size", (3, 4, 32), 8) as caught:
        build_on_meta("vgg8", 5, (3, 4, 32), {})
    assert "\n" not in str(caught.value)
    assert build_on_meta("vgg8", 5, (3, 4, 4), {"input_size": 8}).classes == 5


def checkpoints(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the three files that RepDistiller writes for a teacher (`train_teacher.py`)."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for parameter in module.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.ones_like(parameter)
    parts = {"model": module.state_dict(), "optimizer": optimizer.state_dict()}
    return {
        "ckpt_epoch_240.pth": {"epoch": 240, "accuracy": torch.tensor([79.42]), **parts},
        "best.pth": {"epoch": 231, "best_acc": torch.tensor([79.5]), **parts},
        "last.pth": {"opt": Namespace(model="wrn", lr_decay_epochs=[150, 180, 210]), **parts},
    }


@every_network
def test_checkpoint_of_repdistiller_is_imported_by_order(name: str, tmp_path: Path) -> None:
    module = NETWORKS[name].trained(CLASSES)
    content = checkpoints(module)
    kinds = list(content) if name == "wrn_16_1" else ["ckpt_epoch_240.pth"]
    for kind in kinds:
        torch.save(content[kind], tmp_path / kind)
        checkpoint = read_checkpoint(tmp_path / kind)
        with refused("FILE", allowed=f"weights of {name} with {CLASSES} classes") as caught:
            convert_checkpoint(checkpoint, Wanted(name, {}))
        assert "--match order" in str(caught.value).splitlines()[0]
        imported = convert_checkpoint(checkpoint, Wanted(name, {}), "order")
        assert imported.shape == (3, 32, 32)
        imported.save(tmp_path / "teacher.safetensors")
        network = build(name, CLASSES, (3, 32, 32), {}).eval()
        load_weights(network, str(tmp_path / "teacher.safetensors"), exact=True)
        with torch.no_grad():
            found, expected = network(images()).logits, NETWORKS[name].run(module, images())[1]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "other"), [("wrn_16_2", "wrn_40_2"), ("vgg8", "vgg13"), ("shuffle_v1", "shuffle_v2")]
)
def test_checkpoint_of_another_network_is_refused(name: str, other: str, tmp_path: Path) -> None:
    state = {key: torch.zeros(value.shape) for key, value in _meta_state(other).items()}
    torch.save({"epoch": 240, "model": state}, tmp_path / "other.pth")
    with refused("FILE", allowed=f"weights of {name} with {CLASSES} classes"):
        convert_checkpoint(read_checkpoint(tmp_path / "other.pth"), Wanted(name, {}), "order")


def _meta_state(name: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return NETWORKS[name].make(CLASSES).state_dict()


def spread(tensor: Tensor) -> float:
    return float(tensor.detach().std())


@pytest.mark.parametrize("name", ["wrn_16_1", "vgg8", "mobilenet_v2_half"])
def test_initial_weights_are_those_of_repdistiller(name: str) -> None:
    """Standard deviation sqrt(2 / (outputs k^2)) of a convolution; the head as documented."""
    torch.manual_seed(0)
    network = build(name, CLASSES, (3, 32, 32), {})
    convolutions = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    for layer in (each for each in convolutions if each.weight.numel() > 1000):
        outputs, _, side, _ = layer.weight.shape
        expected = (2 / (outputs * side**2)) ** 0.5
        assert spread(layer.weight) == pytest.approx(expected, rel=0.1)
    assert all(layer.bias is None or not layer.bias.any() for layer in convolutions)
    inputs = network.head.in_features
    uniform = (1 / (3 * inputs)) ** 0.5  # of a linear layer of PyTorch: U(-1, 1) / sqrt(inputs)
    expected = uniform if name.startswith("wrn") else 0.01
    assert spread(network.head.weight) == pytest.approx(expected, rel=0.05)
    assert not network.head.bias.any()


@pytest.mark.parametrize("name", ["shuffle_v1", "shuffle_v2"])
def test_initial_weights_of_the_shufflenets_are_those_of_pytorch(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, CLASSES, (3, 32, 32), {})
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 1000:
            inputs = layer.weight[0].numel()
            assert spread(layer.weight) == pytest.approx((1 / (3 * inputs)) ** 0.5, rel=0.1)
    assert network.head.bias.any()
