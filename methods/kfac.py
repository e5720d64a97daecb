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

    `patches` maps its input to patches (B, groups, in, positions). `positions` maps its output to
    (B, groups * out, positions).
    """

    weight: Tensor
    bias: Tensor | None
    layer_input: Tensor
    groups: int
    patches: Callable[[Tensor], Tensor]
    positions: Callable[[Tensor], Tensor]


def kfac(problem: WholeNetwork, gradient: Tensor, damping: float, seed: int = 0) -> Solution:
    """Solve (A (x) G + damping I) s = g layer by layer (Martens and Grosse, arXiv 1503.05671).

    Convolutions follow arXiv 1602.01407; their groups are independent of each other. G comes from
    random gradients at the logits, whose covariance is the curvature of the objective with the
    current weights. Parameters of other layers (BatchNorm, embeddings, joint projections of
    attention) are left out: the direction is 0 there.

    Raises:
        ValueError: The network calls no linear or convolutional layer.
    """
    factors = compute_factors(problem, seed)
    gradients = problem.to_tensors(gradient)
    direction = problem.to_tensors(torch.zeros_like(gradient))
    for name, layer in factors.items():
        inverse = Kronecker(
            layer.outputs / problem.samples, layer.inputs / problem.samples, damping
        )
        groups, outs = layer.outputs.shape[:2]
        matrix = gradients[name].reshape(groups, outs, -1)
        if layer.bias:
            matrix = torch.cat([matrix, gradients[layer.bias].reshape(groups, outs, 1)], dim=2)
        solved = inverse.solve(matrix)
        if layer.bias:
            direction[layer.bias].copy_(solved[:, :, -1].reshape(-1))
            solved = solved[:, :, :-1]
        direction[name].copy_(solved.reshape(gradients[name].shape))
    return Solution(problem.to_vector(direction), 1, None)


def compute_factors(problem: WholeNetwork, seed: int) -> dict[str, Factors]:
    """Return the factors of every layer by the name of its weight.

    They take one pass over the training part.
    """
    parameters = {
        name: tensor.clone().requires_grad_() for name, tensor in problem.parameters.items()
    }
    names = {id(tensor): name for name, tensor in parameters.items()}
    generator = torch.Generator(problem.weights.device).manual_seed(seed)
    factors: dict[str, Factors] = {}
    for rows, inputs in problem.blocks():
        with torch.enable_grad(), _CallRecorder(names) as recorder:
            logits = problem.network.logits(parameters, inputs)
        if not recorder.calls:
            raise ValueError(
                "kfac needs a linear or convolutional layer, and this network has none: choose "
                "last_layer or cg"
            )
        drawn = problem.losses.drawn_gradients(logits.detach(), rows, generator)
        drawn *= problem.weights[rows, None].sqrt()
        slopes = torch.autograd.grad(
            logits, [output for _, output in recorder.calls], drawn, allow_unused=True
        )
        for (call, _), slope in zip(recorder.calls, slopes, strict=True):
            if slope is not None:
                _add_block(factors, names, call, slope)
    return factors


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


def _add_block(
    factors: dict[str, Factors], names: Mapping[int, str], call: _Call, slope: Tensor
) -> None:
    """Add a block's share to the factors of a layer, a bounded number of samples at a time."""
    name, bias = names[id(call.weight)], names.get(id(call.bias))
    groups = call.groups
    outs = len(call.weight) // call.groups
    width = call.weight[0].numel() + (bias is not None)
    if name not in factors:
        like = call.weight.detach()
        factors[name] = Factors(
            like.new_zeros(groups, width, width), like.new_zeros(groups, outs, outs), bias
        )
    slopes = call.positions(slope)
    positions = slopes.shape[2]
    block_samples = max(1, UNFOLDED_BYTES // (groups * width * positions * slope.element_size()))
    for layer_input, output_slopes in zip(
        torch.split(call.layer_input.detach(), block_samples),
        torch.split(slopes, block_samples),
        strict=True,
    ):
        patches = call.patches(layer_input)
        if bias:
            patches = functional.pad(patches, (0, 0, 0, 1), value=1.0)
        by_group = patches.permute(1, 2, 0, 3).flatten(2)
        factors[name].inputs.add_(by_group @ by_group.mT)
        by_group = output_slopes.reshape(-1, groups, outs, positions).permute(1, 2, 0, 3).flatten(2)
        factors[name].outputs.add_(by_group @ by_group.mT, alpha=1 / positions)


class _CallRecorder(TorchFunctionMode):
    """Function mode that records calls of layers with named weights, and their outputs."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.names = names
        self.calls: list[tuple[_Call, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in _CALL_READERS:
            return result
        call = _CALL_READERS[func](*args, **(kwargs or {}))
        if id(call.weight) not in self.names:
            return result
        self.calls.append((call, result))
        return result.clone()  # the next layer may modify its input in place


def _linear(layer_input: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Call:
    """Return the call of a linear layer on (B, in) or (B, ..., in); middle axes are positions."""

    def positions(tensor: Tensor) -> Tensor:
        return tensor.reshape(len(tensor), -1, tensor.shape[-1]).mT

    return _Call(weight, bias, layer_input, 1, lambda inputs: positions(inputs)[:, None], positions)


def _convolution(
    layer_input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> _Call:
    kernel = weight.shape[2:]
    dilations = dilation if isinstance(dilation, tuple) else (dilation, dilation)

    def patches(inputs: Tensor) -> Tensor:
        around: Any = padding
        if padding == "same":
            inputs, around = functional.pad(inputs, _same_padding(kernel, dilations)), 0
        elif padding == "valid":
            around = 0
        unfolded = functional.unfold(
            inputs, tuple(kernel), dilation=dilations, padding=around, stride=stride
        )
        return unfolded.view(len(unfolded), groups, -1, unfolded.shape[2])

    return _Call(weight, bias, layer_input, groups, patches, lambda tensor: tensor.flatten(2))


def _same_padding(kernel: torch.Size, dilations: tuple[int, int]) -> list[int]:
    """Return the padding left, right, above and below, as in torch: the end gets an odd one."""
    totals = [step * (size - 1) for size, step in zip(kernel, dilations, strict=True)]
    return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]


_CALL_READERS: dict[Any, Callable[..., _Call]] = {
    functional.linear: _linear,
    functional.conv2d: _convolution,
}
