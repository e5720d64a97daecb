"""Base class of all networks: a body that computes features, and a linear head."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods import Output

Shape = tuple[int, int, int]
Classes = Sequence[int | str]  # outputs of weights that a network keeps: positions, or names


class PublishedWeights(Protocol):
    """Weights that the publisher of a network offers by name."""

    def load(self, network: "Network", weights: str, exact: bool, classes: Classes | None) -> None:
        """Fill a network in place, as `load_weights` does."""

    def require(
        self, network: "Network", weights: str, exact: bool, classes: Classes | None
    ) -> None:
        """Raise the ConfigurationError of `load`, except for a failed download."""


class Network(nn.Module):
    """A classifier from inputs (B, C, H, W) to logits (B, K) and penultimate features (B, D).

    Args:
        name: The name of the network.
        body: The module that computes the features.
        features: D.
        classes: K.
        stages: The submodules of the body whose outputs are the feature maps of stage1, stage2 and
            so on, from the input to the output.
        head: The head; None for a new linear layer.

    Attributes:
        full_name: The name in the configuration; `name` of `hf/FOLDER` has no path.
        adapter: Converts the inputs for the body; None if the body takes them as they are.
        classifier: Name of the head in the module that became the body; empty if it had none.
        published: Weights that have names; None for those of torchvision.
    """

    def __init__(
        self,
        name: str,
        body: nn.Module,
        features: int,
        classes: int,
        stages: Sequence[str] = (),
        head: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        self.name = self.full_name = name
        self.classes = classes
        self.stages = {f"stage{number}": f"body.{path}" for number, path in enumerate(stages, 1)}
        self.classifier = ""
        self.published: PublishedWeights | None = None
        self.adapter: nn.Module | None = None
        self.body = body
        self.head = nn.Linear(features, classes) if head is None else head

    def forward(self, inputs: Tensor) -> Output:
        """Return the features (B, D) and the logits (B, K) = head(features)."""
        if self.adapter is not None:
            inputs = self.adapter(inputs)
        features = self.body(inputs)
        return Output(self.head(features), features)

    def __str__(self) -> str:
        return f"{self.name} with {self.classes} classes"


def count_features(network: nn.Module) -> int:
    """Return the length D of a network's features."""
    return int(head_tensors(network)[0].shape[1])


def head_tensors(
    network: nn.Module, parameters: Mapping[str, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Return the weight (K, D) and the bias (K,) of a network's head.

    Args:
        network: The network.
        parameters: Other parameters of the network by name; None for its own.
    """
    head = network.get_submodule("head")
    assert isinstance(head, nn.Linear)
    tensors = parameters or {}
    return tensors.get("head.weight", head.weight), tensors.get("head.bias", head.bias)


def with_exact_head(output: Output, weight: Tensor, bias: Tensor) -> Output:
    """Return logits (B, K) that are computed in float32 from the features, regardless of autocast.

    Logits in bfloat16 have 8 significant bits. In 13 of 3,000 images two classes had equal logits,
    so the order of the classes decided.

    Args:
        output: Output of a network, with features (B, D).
        weight: Weight of the head, (K, D).
        bias: Bias of the head, (K,).
    """
    with torch.autocast(output.features.device.type, enabled=False):
        return Output(
            functional.linear(output.features.float(), weight.float(), bias.float()),
            output.features,
        )


def kaiming(body: nn.Module) -> nn.Module:
    """Initialise the body's convolutions in place for ReLU by fan-out, and return the body.

    Source: He et al. 2015, as in RepDistiller.
    """
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return body


def small_head(features: int, classes: int) -> nn.Linear:
    """Return a linear head with weights of standard deviation 0.01 and a bias of zero.

    Source: `models/vgg.py` and `models/mobilenetv2.py` of RepDistiller.
    """
    head = nn.Linear(features, classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


def convolution(
    inputs: int, outputs: int, stride: int = 1, side: int = 3, groups: int = 1
) -> nn.Conv2d:
    """Return a convolution without bias that keeps the size up to its stride.

    Batch normalisation follows, so a bias is not needed.
    """
    return nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
