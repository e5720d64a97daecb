"""A CIFAR ResNet with the module names of RepDistiller, defined independently of the project's."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        shortcut = inputs if self.downsample is None else self.downsample(inputs)
        inner = self.relu(self.bn1(self.conv1(inputs)))
        outer: Tensor = self.relu(self.bn2(self.conv2(inner)) + shortcut)
        return outer


class ResNet(nn.Module):
    """ResNet-8 for `classes` classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2))
        self.layer3 = nn.Sequential(Block(32, 64, 2))
        self.fc = nn.Linear(64, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        inner = functional.relu(self.bn1(self.conv1(inputs)))
        inner = self.layer3(self.layer2(self.layer1(inner)))
        logits: Tensor = self.fc(functional.adaptive_avg_pool2d(inner, 1).flatten(1))
        return logits


def trained(classes: int = 10) -> ResNet:
    """Return a network with random weights and statistics, in eval mode."""
    torch.manual_seed(4)
    network = ResNet(classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, tensor in module.state_dict().items():
                if name != "num_batches_tracked":
                    nn.init.uniform_(tensor, 0.5, 2.0)
    return network.eval()
