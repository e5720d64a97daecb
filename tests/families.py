"""List the smallest network of each family."""

import torch

from orchestrator.models.build import build
from orchestrator.models.network import Network

SMALL: dict[
    str, tuple[tuple[int, int, int], dict[str, int]]
] = {  # the smallest network of each family
    "mlp": ((1, 8, 8), {"width": 8}),
    "cnn": ((1, 8, 8), {"width": 4}),
    "separable_cnn": ((3, 16, 16), {"width": 4}),
    "resnet8": ((3, 16, 16), {}),
    "resnet18": ((3, 32, 32), {}),
    "mobilenet_v2": ((3, 32, 32), {}),
}


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
