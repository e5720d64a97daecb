"""Networks of the CIFAR-100 benchmark, defined from the papers with the names of RepDistiller.

Modules only hold the tensors, under RepDistiller's names and in its order; a function for each
family computes the logits from its papers by `torch.nn.functional`. Nothing of the project is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Maps = list[Tensor]


class Tree(nn.Module):
    """Submodules by name, in the order of the arguments."""

    def __init__(self, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def conv(inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)


def bn(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels)


def numbered(modules: dict[int, nn.Module]) -> Tree:
    return Tree(**{str(position): module for position, module in modules.items()})


def wide_resnet(depth: int, width: int, classes: int) -> nn.Module:
    """Zagoruyko and Komodakis 2016: 6 n + 4 layers in groups of 16 k, 32 k and 64 k channels."""
    channels = [16, 16 * width, 32 * width, 64 * width]

    def block(inputs: int, outputs: int, stride: int) -> Tree:
        short = {"convShortcut": conv(inputs, outputs, 1, stride)} if inputs != outputs else {}
        return Tree(
            bn1=bn(inputs),
            conv1=conv(inputs, outputs, 3, stride),
            bn2=bn(outputs),
            conv2=conv(outputs, outputs, 3),
            **short,
        )

    groups = {}
    for number, stride in ((1, 1), (2, 2), (3, 2)):
        inputs, outputs = channels[number - 1], channels[number]
        blocks = [block(inputs, outputs, stride)]
        blocks += [block(outputs, outputs, 1) for _ in range((depth - 4) // 6 - 1)]
        groups[f"block{number}"] = Tree(layer=nn.Sequential(*blocks))
    head = nn.Linear(channels[3], classes)
    return Tree(conv1=conv(3, 16, 3), **groups, bn1=bn(channels[3]), fc=head)


def run_wide_resnet(net: Any, images: Tensor) -> tuple[Maps, Tensor]:
    values, maps = net.conv1(images), []
    for group in (net.block1, net.block2, net.block3):
        for block in group.layer:
            active = block.bn1(values).relu()
            residual = block.conv2(block.bn2(block.conv1(active)).relu())
            values = residual + (
                block.convShortcut(active) if hasattr(block, "convShortcut") else values
            )
        maps.append(values)
    return maps, net.fc(net.bn1(values).relu().mean((2, 3)))


def vgg(convolutions: list[int], classes: int) -> nn.Module:
    """Simonyan and Zisserman 2015: blocks of 3x3 convolutions between max poolings."""
    blocks, inputs = {}, 3
    for number, (count, outputs) in enumerate(
        zip(convolutions, (64, 128, 256, 512, 512), strict=True)
    ):
        layers: dict[int, nn.Module] = {}
        for position in range(count):  # a ReLU has the third number
            layers[3 * position] = nn.Conv2d(inputs, outputs, 3, padding=1)
            layers[3 * position + 1] = bn(outputs)
            inputs = outputs
        blocks[f"block{number}"] = numbered(layers)
    return Tree(**blocks, classifier=nn.Linear(512, classes))


def run_vgg(net: Any, images: Tensor) -> tuple[Maps, Tensor]:
    values, maps = images, []
    for number in range(5):
        layers = list(getattr(net, f"block{number}").children())
        for convolution, norm in zip(layers[::2], layers[1::2], strict=True):
            values = norm(convolution(values)).relu()
        maps.append(values)
        if number < 3 or (number == 3 and images.shape[2] == 64):
            values = functional.max_pool2d(values, 2, 2)
    return maps[1:], net.classifier(values.mean((2, 3)))


def shuffled(values: Tensor, groups: int) -> Tensor:
    """Take the channels of all groups in turn (Zhang et al. 2018, figure 1)."""
    size = values.shape[1] // groups
    order = [group * size + position for position in range(size) for group in range(groups)]
    return values[:, order]


def shuffle_v1(classes: int) -> nn.Module:
    """Zhang et al. 2018, table 1, three groups, with a 1x1 stem; units shrink to a quarter."""

    def unit(inputs: int, outputs: int) -> Tree:
        own = outputs - inputs if inputs != outputs else outputs
        inner = own // 4
        return Tree(
            conv1=conv(inputs, inner, 1, groups=1 if inputs == 24 else 3),
            bn1=bn(inner),
            conv2=conv(inner, inner, 3, 2 if inputs != outputs else 1, inner),
            bn2=bn(inner),
            conv3=conv(inner, own, 1, groups=3),
            bn3=bn(own),
        )

    layers = {}
    for number, (inputs, outputs, count) in enumerate(
        ((24, 240, 4), (240, 480, 8), (480, 960, 4)), start=1
    ):
        units = [unit(inputs, outputs), *(unit(outputs, outputs) for _ in range(count - 1))]
        layers[f"layer{number}"] = nn.Sequential(*units)
    return Tree(conv1=conv(3, 24, 1), bn1=bn(24), **layers, linear=nn.Linear(960, classes))


def run_shuffle_v1(net: Any, images: Tensor) -> tuple[Maps, Tensor]:
    values, maps = net.bn1(net.conv1(images)).relu(), []
    for layer in (net.layer1, net.layer2, net.layer3):
        for unit in layer:
            inner = shuffled(unit.bn1(unit.conv1(values)).relu(), unit.conv1.groups)
            own = unit.bn3(unit.conv3(unit.bn2(unit.conv2(inner)).relu()))
            if unit.conv2.stride == (2, 2):
                values = torch.cat([own, functional.avg_pool2d(values, 3, 2, 1)], 1).relu()
            else:
                values = (own + values).relu()
        maps.append(values)
    return maps, net.linear(values.mean((2, 3)))


def shuffle_v2(classes: int) -> nn.Module:
    """Ma et al. 2018, table 5 at width 1, with a 1x1 stem; figures 3c and 3d are the units."""

    def down(inputs: int, half: int) -> Tree:
        return Tree(
            conv1=conv(inputs, inputs, 3, 2, inputs),
            bn1=bn(inputs),
            conv2=conv(inputs, half, 1),
            bn2=bn(half),
            conv3=conv(inputs, half, 1),
            bn3=bn(half),
            conv4=conv(half, half, 3, 2, half),
            bn4=bn(half),
            conv5=conv(half, half, 1),
            bn5=bn(half),
        )

    def unit(half: int) -> Tree:
        return Tree(
            conv1=conv(half, half, 1),
            bn1=bn(half),
            conv2=conv(half, half, 3, 1, half),
            bn2=bn(half),
            conv3=conv(half, half, 1),
            bn3=bn(half),
        )

    layers = {}
    for number, (inputs, half, count) in enumerate(
        ((24, 58, 3), (116, 116, 7), (232, 232, 3)), start=1
    ):
        layers[f"layer{number}"] = nn.Sequential(
            down(inputs, half), *(unit(half) for _ in range(count))
        )
    end = {"conv2": conv(464, 1024, 1), "bn2": bn(1024), "linear": nn.Linear(1024, classes)}
    return Tree(conv1=conv(3, 24, 1), bn1=bn(24), **layers, **end)


def run_shuffle_v2(net: Any, images: Tensor) -> tuple[Maps, Tensor]:
    values, maps = net.bn1(net.conv1(images)).relu(), []
    for layer in (net.layer1, net.layer2, net.layer3):
        down, *units = layer
        left = down.bn2(down.conv2(down.bn1(down.conv1(values)))).relu()
        right = down.bn4(down.conv4(down.bn3(down.conv3(values)).relu()))
        right = down.bn5(down.conv5(right)).relu()
        values = shuffled(torch.cat([left, right], 1), 2)
        for unit in units:
            half = values.shape[1] // 2
            inner = unit.bn2(unit.conv2(unit.bn1(unit.conv1(values[:, half:])).relu()))
            inner = unit.bn3(unit.conv3(inner)).relu()
            values = shuffled(torch.cat([values[:, :half], inner], 1), 2)
        maps.append(values)
    return maps, net.linear(net.bn2(net.conv2(values)).relu().mean((2, 3)))


def mobilenet_v2_half(classes: int) -> nn.Module:
    """Sandler et al. 2018, table 2, half of the channels except the last, and other strides."""
    table = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2)]
    table += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]

    def block(inputs: int, outputs: int, stride: int, expansion: int) -> Tree:
        inner = inputs * expansion
        wide = {0: conv(inputs, inner, 1), 1: bn(inner), 3: conv(inner, inner, 3, stride, inner)}
        return Tree(
            conv=numbered({**wide, 4: bn(inner), 6: conv(inner, outputs, 1), 7: bn(outputs)})
        )

    inputs, groups = 16, []
    for expansion, channels, count, stride in table:
        outputs = channels // 2
        blocks = [block(inputs, outputs, stride, expansion)]
        blocks += [block(outputs, outputs, 1, expansion) for _ in range(count - 1)]
        groups.append(nn.Sequential(*blocks))
        inputs = outputs
    return Tree(
        conv1=nn.Sequential(conv(3, 16, 3, 2), bn(16)),
        blocks=nn.ModuleList(groups),
        conv2=nn.Sequential(conv(160, 1280, 1), bn(1280)),
        classifier=nn.Sequential(nn.Linear(1280, classes)),
    )


def run_mobilenet_v2_half(net: Any, images: Tensor) -> tuple[Maps, Tensor]:
    values, maps = net.conv1(images).relu(), []
    for group in net.blocks:
        for block in group:
            expand, bn1, deep, bn2, project, bn3 = block.conv.children()
            inner = bn3(project(bn2(deep(bn1(expand(values)).relu())).relu()))
            values = inner + values if inner.shape == values.shape else inner
        maps.append(values)
    logits = net.classifier(net.conv2(values).relu().mean((2, 3)))
    return [maps[position] for position in (1, 2, 4, 6)], logits


def resnet50(classes: int) -> nn.Module:
    """He et al. 2016, table 1, 50 layers, with a 3x3 stem of stride 1 and no pooling."""

    def block(inputs: int, inner: int, stride: int) -> Tree:
        short = {}
        if inputs != 4 * inner:
            short["shortcut"] = nn.Sequential(conv(inputs, 4 * inner, 1, stride), bn(4 * inner))
        return Tree(
            conv1=conv(inputs, inner, 1),
            bn1=bn(inner),
            conv2=conv(inner, inner, 3, stride),
            bn2=bn(inner),
            conv3=conv(inner, 4 * inner, 1),
            bn3=bn(4 * inner),
            **short,
        )

    layers, inputs = {}, 64
    for number, (inner, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        blocks = [block(inputs, inner, 1 if number == 1 else 2)]
        blocks += [block(4 * inner, inner, 1) for _ in range(count - 1)]
        layers[f"layer{number}"] = nn.Sequential(*blocks)
        inputs = 4 * inner
    return Tree(conv1=conv(3, 64, 3), bn1=bn(64), **layers, linear=nn.Linear(2048, classes))


def run_resnet50(net: Any, images: Tensor) -> tuple[Maps, Tensor]:
    values, maps = net.bn1(net.conv1(images)).relu(), []
    for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
        for block in layer:
            inner = block.bn2(block.conv2(block.bn1(block.conv1(values)).relu())).relu()
            short = block.shortcut(values) if hasattr(block, "shortcut") else values
            values = (block.bn3(block.conv3(inner)) + short).relu()
        maps.append(values)
    return maps, net.linear(values.mean((2, 3)))


@dataclass(frozen=True)
class Published:
    """A network of RepDistiller: its tensors, and its maps f1, f2 and so on with the logits."""

    make: Callable[[int], nn.Module]
    run: Callable[[nn.Module, Tensor], tuple[Maps, Tensor]]

    def trained(self, classes: int) -> nn.Module:
        """Return the module with random weights and statistics."""
        torch.manual_seed(4)
        module = self.make(classes)
        for each in module.modules():
            if isinstance(each, nn.BatchNorm2d):
                for tensor in (each.weight, each.bias, each.running_mean, each.running_var):
                    assert tensor is not None
                    nn.init.uniform_(tensor, 0.5, 1.5)
        return module.eval()


def _wide(depth: int, width: int) -> Published:
    return Published(lambda classes: wide_resnet(depth, width, classes), run_wide_resnet)


def _vgg(*convolutions: int) -> Published:
    return Published(lambda classes: vgg(list(convolutions), classes), run_vgg)


NETWORKS = {
    "wrn_16_1": _wide(16, 1),
    "wrn_16_2": _wide(16, 2),
    "wrn_40_1": _wide(40, 1),
    "wrn_40_2": _wide(40, 2),
    "vgg8": _vgg(1, 1, 1, 1, 1),
    "vgg11": _vgg(1, 1, 2, 2, 2),
    "vgg13": _vgg(2, 2, 2, 2, 2),
    "vgg16": _vgg(2, 2, 3, 3, 3),
    "vgg19": _vgg(2, 2, 4, 4, 4),
    "shuffle_v1": Published(shuffle_v1, run_shuffle_v1),
    "shuffle_v2": Published(shuffle_v2, run_shuffle_v2),
    "mobilenet_v2_half": Published(mobilenet_v2_half, run_mobilenet_v2_half),
    "resnet50": Published(resnet50, run_resnet50),
}
