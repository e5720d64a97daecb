"""MobileNetV2 at half width for small images (Sandler et al. 2018, arXiv 1801.04381).

Tensors, order and initial values are those of RepDistiller (`models/mobilenetv2.py`): ReLU instead
of ReLU6, no dropout, and a side that is halved four times.
"""

from torch import Tensor, nn

from methods import Settings
from orchestrator.models.network import Network, Shape, convolution, kaiming, small_head

STEM = 16  # channels
FEATURES = 1280
# (expansion, channels, blocks, stride of the first block) of each group of blocks
GROUPS = (
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
)


class InvertedResidual(nn.Module):
    """A 1x1 expansion, a depth-wise 3x3 convolution and a linear 1x1 projection.

    The inputs are added if the shape stays.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.adds_inputs = stride == 1 and inputs == outputs
        self.layers = nn.Sequential(
            *_activated(inputs, inner, side=1),
            *_activated(inner, inner, stride, groups=inner),
            convolution(inner, outputs, side=1),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, outputs, H / stride, W / stride)."""
        outputs: Tensor = self.layers(inputs)
        return inputs + outputs if self.adds_inputs else outputs


def _activated(
    inputs: int, outputs: int, stride: int = 1, side: int = 3, groups: int = 1
) -> list[nn.Module]:
    layer = convolution(inputs, outputs, stride, side, groups)
    return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]


def mobilenet_v2_half(settings: Settings, classes: int, shape: Shape) -> Network:
    """Build a stem of stride 2, seven groups of blocks and a 1x1 convolution: D = 1,280.

    The stages are the ends of the groups 2, 3, 5 and 7. No activation follows the batch norm of a
    block, so these maps are RepDistiller's with and without `preact`.
    """
    layers, inputs = _activated(shape[0], STEM, 2), STEM
    ends: list[str] = []
    for expansion, outputs, blocks, stride in GROUPS:
        first = InvertedResidual(inputs, outputs, stride, expansion)
        rest = [InvertedResidual(outputs, outputs, 1, expansion) for _ in range(blocks - 1)]
        ends.append(str(len(layers)))
        layers.append(nn.Sequential(first, *rest))
        inputs = outputs
    layers += [*_activated(inputs, FEATURES, side=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    stages = [ends[number - 1] for number in (2, 3, 5, 7)]
    body, head = kaiming(nn.Sequential(*layers)), small_head(FEATURES, classes)
    return Network("mobilenet_v2_half", body, FEATURES, classes, stages, head)
