"""VGG networks for small images: batch norm, and no hidden linear layers.

Tensors, order and initial values are those of RepDistiller (`models/vgg.py`, with batch norm).
The networks are those of Simonyan and Zisserman 2015 (arXiv 1409.1556), and a shallower one.
"""

from functools import partial

from torch import nn

from methods import Settings
from orchestrator.core.errors import ConfigurationError
from orchestrator.models.network import Network, Shape, kaiming, small_head

CHANNELS = (64, 128, 256, 512, 512)  # of the five blocks
# Name -> convolutions of each block.
CONVOLUTIONS: dict[str, tuple[int, int, int, int, int]] = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_SMALLEST_SIDE = 8  # which three poolings make 1
# From this side on, the fourth block too is followed by a pooling.
_LARGE_SIDE = 64


def _block(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
    """Return 3x3 convolutions, each with a bias, batch norm and ReLU."""
    layers: list[nn.Module] = []
    for _ in range(convolutions):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    return nn.Sequential(*layers)


def vgg(name: str, settings: Settings, classes: int, shape: Shape) -> Network:
    """Build five blocks of convolutions with max pooling between, and a global average: D = 512.

    Images below 64 pixels are halved three times, others four times. The stages are the blocks
    after the first, with their last ReLU; RepDistiller's `preact` maps are before it.

    Args:
        name: A key of `CONVOLUTIONS`.
        settings: Unused: these networks have no settings.
        classes: Number of classes K.
        shape: (channels, height, width) of the inputs.

    Raises:
        ConfigurationError: A side has less than 8 pixels.
    """
    if min(shape[1:]) < _SMALLEST_SIDE:
        size = "x".join(map(str, shape[1:]))
        raise ConfigurationError(
            f"network {name} cannot be used for images of {size} pixels: give an input_size of "
            f"at least {_SMALLEST_SIDE}, or choose another network"
        ).with_details("input_size", shape, _SMALLEST_SIDE)
    poolings = 4 if min(shape[1:]) >= _LARGE_SIDE else 3
    layers: list[nn.Module] = []
    stages, inputs = list[str](), shape[0]
    for number, convolutions in enumerate(CONVOLUTIONS[name]):
        stages.append(str(len(layers)))
        layers.append(_block(inputs, CHANNELS[number], convolutions))
        layers += [nn.MaxPool2d(2)] if number < poolings else []
        inputs = CHANNELS[number]
    body = kaiming(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    for module in body.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return Network(name, body, inputs, classes, stages[1:], small_head(inputs, classes))


BUILDERS = {name: partial(vgg, name) for name in CONVOLUTIONS}
