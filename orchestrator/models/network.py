"""The form of every network here: a body that makes features, and a linear head. Knows no architecture."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from methods import Output

Shape = tuple[int, int, int]


class Network(nn.Module):
    """A classifier that also says what it saw: inputs (B, C, H, W) to logits (B, K) and penultimate features (B, D)."""

    def __init__(self, name: str, body: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.name = name
        self.classes = classes
        self.body = body
        self.head = nn.Linear(features, classes)

    def forward(self, inputs: Tensor) -> Output:
        """Logits (B, K) = head(features), and the features (B, D) themselves."""
        features = self.body(inputs)
        return Output(self.head(features), features)

    def __str__(self) -> str:
        return f"{self.name} with {self.classes} classes"


def with_exact_head(output: Output, weight: Tensor, bias: Tensor) -> Output:
    """Return logits that the head, weight (K, D) and bias (K,), makes of the features in float32, whatever autocast is on.

    Logits in bfloat16 have 8 bits: in 13 of 3,000 images two classes were equal, and the order of the classes decided.
    """
    with torch.autocast(output.features.device.type, enabled=False):
        return Output(functional.linear(output.features.float(), weight.float(), bias.float()), output.features)


def kaiming(body: nn.Module) -> nn.Module:
    """The body with its convolutions initialised for ReLU by fan-out, in place (He et al. 2015; RepDistiller)."""
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return body


def convolution(inputs: int, outputs: int, stride: int = 1, side: int = 3, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size up to its stride, without a bias: batch normalisation follows."""
    return nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)
