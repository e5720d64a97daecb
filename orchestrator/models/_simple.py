"""Networks for small data: an MLP, a plain CNN and a depth-wise separable CNN."""

import math

from pydantic import Field
from torch import nn

from methods import Settings
from orchestrator.models.network import Network, Shape, convolution, kaiming


class MLPSettings(Settings):
    """Size of a multi-layer perceptron."""

    width: int = Field(128, description="Units of each hidden layer.", ge=1)
    depth: int = Field(2, description="Number of hidden layers.", ge=1, le=1000)
    dropout: float = Field(
        0.0,
        description="Share of each hidden layer's units that is dropped in training.",
        ge=0,
        le=0.9,
    )


class CNNSettings(Settings):
    """Size of the convolutional network."""

    width: int = Field(
        32,
        description="Channels of the first convolution; the second has twice, the third four "
        "times as many.",
        ge=1,
    )


class SeparableCNNSettings(Settings):
    """Size of the depth-wise separable network."""

    width: int = Field(
        32,
        description="Channels of the first convolution; the four blocks have 2, 4, 4 and 8 times "
        "as many.",
        ge=1,
    )


def mlp(settings: MLPSettings, classes: int, shape: Shape) -> Network:
    """Build an MLP on flattened inputs: `depth` hidden layers with ReLU.

    The features are the output of the last hidden layer, D = width. A stage is a hidden layer.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    inputs, stages = math.prod(shape), list[str]()
    for _ in range(settings.depth):
        layers += [nn.Linear(inputs, settings.width), nn.ReLU()]
        stages.append(str(len(layers) - 1))
        layers += [nn.Dropout(settings.dropout)] if settings.dropout else []
        inputs = settings.width
    return Network("mlp", nn.Sequential(*layers), settings.width, classes, stages)


def cnn(settings: CNNSettings, classes: int, shape: Shape) -> Network:
    """Build three 3x3 convolutions with batch norm and a global average pool: D = 4 width.

    The second and the third convolution halve the side. A stage is a convolution with its ReLU.
    """
    layers: list[nn.Module] = []
    inputs, stages = shape[0], list[str]()
    for outputs, stride in ((settings.width, 1), (2 * settings.width, 2), (4 * settings.width, 2)):
        layers += [convolution(inputs, outputs, stride), nn.BatchNorm2d(outputs), nn.ReLU()]
        stages.append(str(len(layers) - 1))
        inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Network("cnn", kaiming(nn.Sequential(*layers)), inputs, classes, stages)


def separable_cnn(settings: SeparableCNNSettings, classes: int, shape: Shape) -> Network:
    """Build a convolution, four depth-wise separable blocks and a global average pool: D = 8 width.

    The first convolution is 3x3; the side is halved twice. The blocks are the first ones of
    MobileNet (Howard et al. 2017, arXiv 1704.04861) behind a stem that keeps the side. At the
    default width the network has 68,000 parameters; ResNet-8 has 78,000. The stages are the last
    blocks of each side.
    """
    width = settings.width
    layers: list[nn.Module] = [convolution(shape[0], width), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for outputs, stride in ((2 * width, 1), (4 * width, 2), (4 * width, 1), (8 * width, 2)):
        layers += [
            convolution(inputs, inputs, stride, groups=inputs),
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
        ]
        layers += [convolution(inputs, outputs, side=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs = outputs
    stages = [str(len(layers) - 1 - 6 * blocks) for blocks in (3, 1, 0)]  # six layers a block
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return Network("separable_cnn", kaiming(nn.Sequential(*layers)), inputs, classes, stages)
