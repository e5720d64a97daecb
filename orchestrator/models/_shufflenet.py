"""ShuffleNet V1 and V2 for small images: a 1x1 convolution is the stem.

Sources: Zhang et al. 2018 (arXiv 1707.01083) and Ma et al. 2018 (arXiv 1807.11164). Tensors, order
and initial values, which are the defaults of PyTorch, are those of RepDistiller
(`models/ShuffleNetv1.py` with three groups, `models/ShuffleNetv2.py` at width 1).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods import Settings
from orchestrator.models.network import Network, Shape, convolution

STEM = 24  # channels
BLOCKS = (4, 8, 4)  # of the stages
GROUPS = 3  # of the 1x1 convolutions of V1
V1_CHANNELS = (240, 480, 960)
V2_CHANNELS = (116, 232, 464)
V2_FEATURES = 1024


def shuffle_channels(inputs: Tensor, groups: int) -> Tensor:
    """Return (B, C, H, W) with channel g C/groups + c moved to c groups + g."""
    grouped: Tensor = inputs.unflatten(1, (groups, -1))  # type: ignore[no-untyped-call]
    return grouped.transpose(1, 2).flatten(1, 2)


class GroupedUnit(nn.Module):
    """Unit of ShuffleNet V1: grouped 1x1, depth-wise 3x3 and grouped 1x1 convolutions.

    A unit that changes the number of channels halves the side, and appends its averaged inputs.
    Any other one adds its inputs. The first convolution behind the stem has one group.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.halves = inputs != outputs
        self.groups = 1 if inputs == STEM else GROUPS
        residual = outputs - inputs if self.halves else outputs
        inner = residual // 4
        self.conv1 = convolution(inputs, inner, side=1, groups=self.groups)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = convolution(inner, inner, 2 if self.halves else 1, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = convolution(inner, residual, side=1, groups=GROUPS)
        self.bn3 = nn.BatchNorm2d(residual)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, outputs, H, W), or to half of the side."""
        inner = shuffle_channels(functional.relu(self.bn1(self.conv1(inputs))), self.groups)
        inner = functional.relu(self.bn2(self.conv2(inner)))
        residual = self.bn3(self.conv3(inner))
        if self.halves:
            pooled = functional.avg_pool2d(inputs, 3, 2, 1)
            return functional.relu(torch.cat([residual, pooled], 1))
        return functional.relu(residual + inputs)


class SplitUnit(nn.Module):
    """Unit of ShuffleNet V2 that convolves one half of the channels and keeps the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = convolution(half, half, side=1)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = convolution(half, half, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = convolution(half, half, side=1)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map features (B, C, H, W) to the same shape."""
        kept, inner = inputs.chunk(2, dim=1)
        inner = functional.relu(self.bn1(self.conv1(inner)))
        inner = self.bn2(self.conv2(inner))
        inner = functional.relu(self.bn3(self.conv3(inner)))
        return shuffle_channels(torch.cat([kept, inner], 1), 2)


class DownUnit(nn.Module):
    """Unit of ShuffleNet V2 that halves the side: two branches of half of the output channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = convolution(inputs, inputs, 2, groups=inputs)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = convolution(inputs, half, side=1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = convolution(inputs, half, side=1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = convolution(half, half, 2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = convolution(half, half, side=1)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, outputs, H / 2, W / 2)."""
        short = self.bn1(self.conv1(inputs))
        short = functional.relu(self.bn2(self.conv2(short)))
        long = functional.relu(self.bn3(self.conv3(inputs)))
        long = self.bn4(self.conv4(long))
        long = functional.relu(self.bn5(self.conv5(long)))
        return shuffle_channels(torch.cat([short, long], 1), 2)


def _stem(channels: int) -> list[nn.Module]:
    return [convolution(channels, STEM, side=1), nn.BatchNorm2d(STEM), nn.ReLU()]


def shuffle_v1(settings: Settings, classes: int, shape: Shape) -> Network:
    """Build three stages of grouped units that each halve the side: D = 960.

    The stages are those of the network, with their last ReLU; RepDistiller's `preact` maps are
    before it.
    """
    stages, inputs = list[nn.Module](), STEM
    for outputs, blocks in zip(V1_CHANNELS, BLOCKS, strict=True):
        rest = [GroupedUnit(outputs, outputs) for _ in range(blocks - 1)]
        stages.append(nn.Sequential(GroupedUnit(inputs, outputs), *rest))
        inputs = outputs
    body = nn.Sequential(*_stem(shape[0]), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network("shuffle_v1", body, inputs, classes, ("3", "4", "5"))


def shuffle_v2(settings: Settings, classes: int, shape: Shape) -> Network:
    """Build three stages that each halve the side, and a 1x1 convolution: D = 1,024.

    The stages are those of the network, with shuffled channels. RepDistiller's `preact` maps are
    not shuffled, and the convolved half of their channels is before its ReLU.
    """
    stages, inputs = list[nn.Module](), STEM
    for outputs, blocks in zip(V2_CHANNELS, BLOCKS, strict=True):
        rest = [SplitUnit(outputs) for _ in range(blocks - 1)]
        stages.append(nn.Sequential(DownUnit(inputs, outputs), *rest))
        inputs = outputs
    body = nn.Sequential(
        *_stem(shape[0]),
        *stages,
        *(convolution(inputs, V2_FEATURES, side=1), nn.BatchNorm2d(V2_FEATURES), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return Network("shuffle_v2", body, V2_FEATURES, classes, ("3", "4", "5"))
