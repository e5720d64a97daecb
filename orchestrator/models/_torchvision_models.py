"""Networks of torchvision, with an adapted stem for small images.

torchvision is imported when a network is built: its import takes seconds, and most trials do not
use it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from methods import Settings
from orchestrator.models.network import Network, Shape, convolution, kaiming

# The usual stem is made for 224 pixels: below this side its output is a few pixels wide.
_LARGE_SIDE = 64


@dataclass(frozen=True)
class Parts:
    """Submodules of a torchvision network: first convolution, classifier, ends of the stages."""

    stem: str
    classifier: str
    stages: tuple[str, ...]


_RESNET = Parts("conv1", "fc", ("layer1", "layer2", "layer3", "layer4"))
PARTS: dict[str, Parts] = {
    "resnet18": _RESNET,
    "resnet34": _RESNET,
    "resnet50": _RESNET,
    "mobilenet_v2": Parts(
        "features.0.0", "classifier.1", ("features.3", "features.6", "features.13", "features.17")
    ),
}


def torchvision_network(name: str, settings: Settings, classes: int, shape: Shape) -> Network:
    """Build a torchvision network without weights; its classifier becomes the head.

    The feature dimension D is 512; for resnet50 it is 2048, for mobilenet_v2 1280.

    Args:
        name: A key of `PARTS`.
        settings: Unused: these networks have no settings.
        classes: Number of classes K.
        shape: (channels, height, width) of the inputs.
    """
    from torchvision import models

    body = models.get_model(name, weights=None)
    small = min(shape[1:]) < _LARGE_SIDE
    fit = _fit_mobilenet if name == "mobilenet_v2" else _fit_resnet
    return Network(name, body, fit(body, shape[0], small), classes, PARTS[name].stages)


def _fit_resnet(body: Any, channels: int, small: bool) -> int:
    """Adapt the stem in place, remove the classifier, and return the number of features."""
    if small:
        body.conv1 = convolution(channels, 64)
        body.maxpool = nn.Identity()
    elif channels != 3:
        body.conv1 = convolution(channels, 64, stride=2, side=7)
    if small or channels != 3:
        kaiming(body.conv1)
    features = int(body.fc.in_features)
    body.fc = nn.Identity()
    return features


def _fit_mobilenet(body: Any, channels: int, small: bool) -> int:
    """Adapt the stem in place, remove the classifier, and return the number of features.

    For small images the first two halvings of the side are left out, so the weights keep their
    usual shapes.
    """
    if channels != 3:
        body.features[0][0] = convolution(channels, 32, stride=2)
        kaiming(body.features[0][0])
    if small:
        body.features[0][0].stride = (1, 1)
        body.features[2].conv[1][0].stride = (1, 1)
    features = int(body.classifier[1].in_features)
    body.classifier = body.classifier[0]
    return features


BUILDERS = {name: partial(torchvision_network, name) for name in PARTS}
