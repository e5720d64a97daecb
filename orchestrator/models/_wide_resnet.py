"""Wide residual networks for small images (Zagoruyko and Komodakis 2016, arXiv 1605.07146).

Tensors, order and initial values are those of RepDistiller (`models/wrn.py`, without dropout).
"""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from methods import Settings
from orchestrator.models.network import Network, Shape, convolution, kaiming

# Name -> (depth, widening factor).
SIZES = {"wrn_16_1": (16, 1), "wrn_16_2": (16, 2), "wrn_40_1": (40, 1), "wrn_40_2": (40, 2)}


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each behind batch norm and ReLU, and a shortcut.

    The shortcut is a 1x1 convolution of the activated inputs if the number of channels changes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = convolution(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs)
        self.shortcut = convolution(inputs, outputs, stride, side=1) if inputs != outputs else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, outputs, H / stride, W / stride)."""
        active = functional.relu(self.bn1(inputs))
        inner = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        outer: Tensor = inner + (inputs if self.shortcut is None else self.shortcut(active))
        return outer


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [PreActivationBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(PreActivationBlock(inputs, outputs, stride), *rest)


def wide_resnet(name: str, settings: Settings, classes: int, shape: Shape) -> Network:
    """Build three stages of (depth - 4) / 6 blocks and a global average pool: D = 64 width.

    A stage is the sum that its last block returns. The batch norm and the ReLU of the next block
    follow; RepDistiller's `preact` maps are behind this batch norm.

    Args:
        name: A key of `SIZES`.
        settings: Unused: these networks have no settings.
        classes: Number of classes K.
        shape: (channels, height, width) of the inputs.
    """
    depth, width = SIZES[name]
    channels = (16, 16 * width, 32 * width, 64 * width)
    blocks = (depth - 4) // 6
    body = nn.Sequential(
        convolution(shape[0], channels[0]),
        *(
            _stage(*pair, blocks, stride)
            for pair, stride in zip(pairwise(channels), (1, 2, 2), strict=True)
        ),
        nn.BatchNorm2d(channels[-1]),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    head = nn.Linear(channels[-1], classes)
    nn.init.zeros_(head.bias)
    return Network(name, kaiming(body), channels[-1], classes, ("1", "2", "3"), head)


BUILDERS = {name: partial(wide_resnet, name) for name in SIZES}
