"""Test the feature maps of every network: their shapes, and their relation to the features."""

import pytest
import torch

from orchestrator.models.build import MODELS, build
from orchestrator.models.feature_maps import map_shapes, recorded_maps
from tests.families import DEEPER

SHAPE = (3, 32, 32)
SETTINGS = {"mlp": {"width": 12}, "cnn": {"width": 4}, "separable_cnn": {"width": 4}}
LARGE = ("resnet56", "resnet110", "resnet32x4", "resnet34", "resnet50", *DEEPER)
NETWORKS = [name for name in MODELS if name not in LARGE]
# layers follow the last stage of these
FOLLOWED = {
    "mobilenet_v2": (320, 4, 4),
    "mobilenet_v2_half": (160, 2, 2),
    "shuffle_v2": (464, 4, 4),
    "wrn_16_1": (64, 8, 8),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_last_map_of_a_network_averages_to_its_features(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, 5, SHAPE, SETTINGS.get(name, {})).eval()
    last = list(network.stages)[-1]
    with torch.no_grad(), recorded_maps(network, [last]) as maps:
        features = network(torch.randn(2, *SHAPE)).features
    pooled = maps[last].mean(dim=(2, 3))
    if name in FOLLOWED:
        assert maps[last].shape[1:] == FOLLOWED[name]
    else:
        torch.testing.assert_close(pooled, features)


@pytest.mark.parametrize("name", MODELS)
def test_shapes_do_not_grow_from_the_input_to_the_output(name: str) -> None:
    with torch.device("meta"):
        network = build(name, 5, SHAPE, SETTINGS.get(name, {}))
    shapes = list(map_shapes(network, SHAPE, list(network.stages)).values())
    assert shapes and next(iter(network.stages)) == "stage1"
    sides = [(shape.height, shape.width) for shape in shapes]
    assert sides == sorted(sides, reverse=True)


def test_shapes_are_those_of_a_forward_pass_and_nothing_changes() -> None:
    network = build("resnet8", 5, SHAPE, {}).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shapes = map_shapes(network, SHAPE, ["stage3", "stage1"])
    assert list(shapes) == ["stage3", "stage1"] and network.training
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    with recorded_maps(network, list(shapes)) as maps:
        network(torch.randn(4, *SHAPE))
    assert {name: tuple(value.shape[1:]) for name, value in maps.items()} == {
        name: tuple(shape) for name, shape in shapes.items()
    }
    network(torch.randn(3, *SHAPE))
    assert len(maps["stage1"]) == 4, "a forward pass after the block must not be recorded"
