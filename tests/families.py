"""List the smallest network of each family, and all networks with marks for tests."""

from collections.abc import Collection
from typing import Any

import pytest
import torch

from orchestrator.models.build import MODELS, build
from orchestrator.models.network import Network

SMALL: dict[
    str, tuple[tuple[int, int, int], dict[str, int]]
] = {  # the smallest network of each family
    "mlp": ((1, 8, 8), {"width": 8}),
    "cnn": ((1, 8, 8), {"width": 4}),
    "separable_cnn": ((3, 16, 16), {"width": 4}),
    "resnet8": ((3, 16, 16), {}),
    "wrn_16_1": ((3, 16, 16), {}),
    "vgg8": ((3, 8, 8), {}),
    "shuffle_v1": ((3, 16, 16), {}),
    "shuffle_v2": ((3, 16, 16), {}),
    "mobilenet_v2_half": ((3, 32, 32), {}),
    "resnet18": ((3, 32, 32), {}),
    "mobilenet_v2": ((3, 32, 32), {}),
}

# Wide ResNets and VGGs that only are deeper or wider than those above.
DEEPER = ("wrn_16_2", "wrn_40_1", "wrn_40_2", "vgg11", "vgg13", "vgg16", "vgg19")


def mark_networks(slow: Collection[str] = DEEPER) -> list[Any]:
    """Return the names of all networks as parameters of a test, with slow ones marked."""
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else ()) for name in MODELS]


def trained(name: str, shape: tuple[int, int, int], settings: dict[str, int]) -> Network:
    """Return a network whose statistics and head are not fresh, so that a lost part is detected."""
    torch.manual_seed(5)
    network = build(name, 10, shape, settings)
    with torch.no_grad():
        network.head.bias.normal_()
        network.train()
        for _ in range(3):
            network(torch.randn(8, *shape) * 2 + 1)
    return network.eval()
