"""Influence by K-FAC: Kronecker factors of every linear and convolutional layer."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from methods.influence import Solution
from methods.influence_network import WholeNetwork
from methods.kronecker import Kronecker

UNFOLDED_BYTES = 1 << 27  # of a convolution's patches held at once


class Factors(NamedTuple):
    """Sums over samples, for every group of a layer.

    Attributes:
        inputs: (groups, in, in), of inputs with a one appended for the bias.
        outputs: (groups, out, out), of output gradients, divided by a sample's positions.
        bias: Name of the bias, or None without one.
    """

    inputs: Tensor
    outputs: Tensor
    bias: str | None


class _Call(NamedTuple):
    """Call of a layer.

    `patches` maps its input to patches (B, groups, in, positions); `places` maps its output to (B,
    groups * out, positions).
    """

    weight: Tensor
    bias: Tensor | None
    given: Tensor
    groups: int
    patches: Callable[[Tensor], Tensor]
    places: Callable[[Tensor], Tensor]


def kfac(problem: WholeNetwork, gradient: Tensor, damping: float, seed: int = 0) -> Solution:
    """Solve (A (x) G + damping I) s = g layer by layer (Martens and Grosse, arXiv 1503.05671).

    Convolutions follow arXiv 1602.01407; their groups are independent of each other. G comes from
    random gradients at the logits, whose covariance is the curvature of the objective with the
    current weights. Parameters of other layers (BatchNorm, embeddings, joint projections of
    attention) are left out: the direction is 0 there.

    Raises:
        ValueError: The network calls no linear or convolutional layer.
    """
    factors = factors_of(problem, seed)
    wanted, found = problem.shaped(gradient), problem.shaped(torch.zeros_like(gradient))
    for name, layer in factors.items():
        inverse = Kronecker(
            layer.outputs / problem.samples, layer.inputs / problem.samples, damping
        )
        groups, outs = layer.outputs.shape[:2]
        matrix = wanted[name].reshape(groups, outs, -1)
        if layer.bias:
            matrix = torch.cat([matrix, wanted[layer.bias].reshape(groups, outs, 1)], dim=2)
        solved = inverse.solve(matrix)
        if layer.bias:
            found[layer.bias].copy_(solved[:, :, -1].reshape(-1))
            solved = solved[:, :, :-1]
        found[name].copy_(solved.reshape(wanted[name].shape))
    return Solution(problem.flat(found), 1, None)


def factors_of(problem: WholeNetwork, seed: int) -> dict[str, Factors]:
    """Return the factors of every layer by the name of its weight.

    They take one pass over the training part.
    """
    parameters = {
        name: tensor.clone().requires_grad_() for name, tensor in problem.parameters.items()
    }
    names = {id(tensor): name for name, tensor in parameters.items()}
    generator = torch.Generator(problem.weights.device).manual_seed(seed)
    found: dict[str, Factors] = {}
    for rows, inputs in problem.blocks():
        with torch.enable_grad(), _Watch(names) as watch:
            logits = problem.network.logits(parameters, inputs)
        if not watch.calls:
            raise ValueError(
                "kfac found no linear or convolutional layer in this network: choose "
                "last_layer or cg"
            )
        drawn = problem.losses.drawn_gradients(logits.detach(), rows, generator)
        drawn *= problem.weights[rows, None].sqrt()
        slopes = torch.autograd.grad(
            logits, [output for _, output in watch.calls], drawn, allow_unused=True
        )
        for (call, _), slope in zip(watch.calls, slopes, strict=True):
            if slope is not None:
                _add(found, names, call, slope)
    return found


def factor_bytes(parameters: Mapping[str, Tensor]) -> int:
    """Return the most bytes that `kfac` holds at once: all factors, and one decomposition.

    All matrices and kernels among the parameters have factors. A convolution counts as one group;
    with more groups the factors of its outputs are smaller.
    """
    sizes = [
        (len(tensor), tensor[0].numel() + 1)
        for tensor in parameters.values()
        if tensor.ndim in (2, 4)
    ]
    squares = [rows**2 + columns**2 for rows, columns in sizes]
    return 4 * sum(squares) + 4 * 8 * max(squares, default=0)


def _add(found: dict[str, Factors], names: Mapping[int, str], call: _Call, slope: Tensor) -> None:
    """Add a block's share to the factors of a layer, a bounded number of samples at a time."""
    name, bias = names[id(call.weight)], names.get(id(call.bias))
    groups, outs, width = (
        call.groups,
        len(call.weight) // call.groups,
        call.weight[0].numel() + (bias is not None),
    )
    if name not in found:
        like = call.weight.detach()
        found[name] = Factors(
            like.new_zeros(groups, width, width), like.new_zeros(groups, outs, outs), bias
        )
    slopes = call.places(slope)
    places = slopes.shape[2]
    at_once = max(1, UNFOLDED_BYTES // (groups * width * places * slope.element_size()))
    for given, of_outputs in zip(
        torch.split(call.given.detach(), at_once), torch.split(slopes, at_once), strict=True
    ):
        patches = call.patches(given)
        if bias:
            patches = functional.pad(patches, (0, 0, 0, 1), value=1.0)
        joined = patches.permute(1, 2, 0, 3).flatten(2)
        found[name].inputs.add_(joined @ joined.mT)
        joined = of_outputs.reshape(-1, groups, outs, places).permute(1, 2, 0, 3).flatten(2)
        found[name].outputs.add_(joined @ joined.mT, alpha=1 / places)


class _Watch(TorchFunctionMode):
    """Function mode that records calls of layers with named weights, and their outputs."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.calls: list[tuple[_Call, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in _READERS:
            return result
        call = _READERS[func](*args, **(kwargs or {}))
        if id(call.weight) not in self.names:
            return result
        self.calls.append((call, result))
        return result.clone()  # the next layer may modify its input in place


def _linear(given: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Call:
    """Return the call of a linear layer on (B, in) or (B, ..., in); middle axes are positions."""

    def places(tensor: Tensor) -> Tensor:
        return tensor.reshape(len(tensor), -1, tensor.shape[-1]).mT

    return _Call(weight, bias, given, 1, lambda inputs: places(inputs)[:, None], places)


def _convolution(
    given: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> _Call:
    kernel, spread = (
        weight.shape[2:],
        dilation if isinstance(dilation, tuple) else (dilation, dilation),
    )

    def patches(inputs: Tensor) -> Tensor:
        around: Any = padding
        if padding == "same":
            inputs, around = functional.pad(inputs, _same(kernel, spread)), 0
        elif padding == "valid":
            around = 0
        unfolded = functional.unfold(
            inputs, tuple(kernel), dilation=spread, padding=around, stride=stride
        )
        return unfolded.view(len(unfolded), groups, -1, unfolded.shape[2])

    return _Call(weight, bias, given, groups, patches, lambda tensor: tensor.flatten(2))


def _same(kernel: torch.Size, spread: tuple[int, int]) -> list[int]:
    """Return the padding left, right, above and below, as in torch: the end gets an odd one."""
    wholes = [step * (size - 1) for size, step in zip(kernel, spread, strict=True)]
    return [side for whole in reversed(wholes) for side in (whole // 2, whole - whole // 2)]


_READERS: dict[Any, Callable[..., _Call]] = {
    functional.linear: _linear,
    functional.conv2d: _convolution,
}
