"""Residual networks of the CIFAR distillation papers, as in RepDistiller."""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from methods import Settings
from orchestrator.models.network import Network, Shape, convolution, kaiming

_NARROW = (16, 16, 32, 64)
_WIDE = (32, 64, 128, 256)

# Name -> (depth, channels of the first convolution and of the three stages).
DEPTHS: dict[str, tuple[int, tuple[int, int, int, int]]] = {
    "resnet8": (8, _NARROW),
    "resnet20": (20, _NARROW),
    "resnet32": (32, _NARROW),
    "resnet56": (56, _NARROW),
    "resnet110": (110, _NARROW),
    "resnet8x4": (8, _WIDE),
    "resnet32x4": (32, _WIDE),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution if the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = convolution(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                convolution(inputs, outputs, stride, side=1), nn.BatchNorm2d(outputs)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, outputs, H / stride, W / stride)."""
        inner = functional.relu(self.bn1(self.conv1(inputs)))
        return functional.relu(self.bn2(self.conv2(inner)) + self.downsample(inputs))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)


def cifar_resnet(name: str, settings: Settings, classes: int, shape: Shape) -> Network:
    """Build three stages of (depth - 2) / 6 basic blocks and a global average pool.

    The feature dimension D is the channel count of the last stage.

    Args:
        name: A key of `DEPTHS`.
        settings: Unused: these networks have no settings.
        classes: Number of classes K.
        shape: (channels, height, width) of the inputs.
    """
    depth, channels = DEPTHS[name]
    blocks = (depth - 2) // 6
    body = nn.Sequential(
        convolution(shape[0], channels[0]),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(),
        *(
            _stage(*pair, blocks, stride)
            for pair, stride in zip(pairwise(channels), (1, 2, 2), strict=True)
        ),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return Network(name, kaiming(body), channels[-1], classes, stages=("3", "4", "5"))


BUILDERS = {name: partial(cifar_resnet, name) for name in DEPTHS}
