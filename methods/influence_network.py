"""The whole network as a problem of influence: products with its curvature, and gradients of all samples along a direction.

Knows the network as a function of its parameters; nothing of its layers, nor of which estimator asks.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from methods.influence import Problem
from methods.tempered import Losses
from methods.weighing import Surveyed


class WholeNetwork(Problem):
    """All parameters of a surveyed network as one vector, in the order of `Surveyed.parameters`.

    `labels` (m,) are those of the held-out part, -1 where there is none; `weights` (n,) the w_i in force. The curvature is
    Gauss-Newton, J^T (d2l/dz2) J, which is positive semi-definite (Schraudolph 2002); with `hessian` it is the Hessian
    (Pearlmutter 1994), which need not be. Blocks are those that the survey gives, and no per-sample gradient is ever held.
    """

    def __init__(self, network: Surveyed, losses: Losses, labels: Tensor, weights: Tensor, hessian: bool = False) -> None:
        self.network, self.losses, self.labels, self.weights, self.hessian = network, losses, labels, weights, hessian
        self.parameters = {name: tensor.detach() for name, tensor in network.parameters.items()}

    @property
    def size(self) -> int:
        """p."""
        return sum(tensor.numel() for tensor in self.parameters.values())

    @property
    def samples(self) -> int:
        """n."""
        return len(self.weights)

    def held_out_gradient(self) -> Tensor:
        """(p,): by reverse differentiation, a pass over the held-out part."""
        known, first = (self.labels != -1).sum().clamp(min=1), 0
        total = self.flat({name: torch.zeros_like(tensor) for name, tensor in self.parameters.items()})
        for inputs in self.network.held_out():
            labels = self.labels[first : first + len(inputs)]
            first += len(inputs)

            def loss(parameters: Mapping[str, Tensor], inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
                logits = self.network.logits(parameters, inputs)
                return functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum") / known

            total += self.flat(torch.func.grad(loss)(self.parameters))
        return total

    def product(self, vector: Tensor) -> Tensor:
        """H v, (p,): forward and reverse differentiation of every block."""
        direction, total = self.shaped(vector), torch.zeros_like(vector)
        for rows, inputs in self.blocks():
            total += self.flat((self._hessian if self.hessian else self._gauss_newton)(rows, inputs, direction))
        return total / self.samples

    def along(self, vector: Tensor) -> Tensor:
        """grad l_i . v, (n,): one forward differentiation a block gives dz_i along v, and dl_i/dz_i is closed."""
        direction, found = self.shaped(vector), []
        for rows, inputs in self.blocks():
            logits, change = self._logits_along(inputs, direction)
            found.append((self.losses.gradients(logits, rows) * change).sum(dim=1))
        return torch.cat(found)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """The training part in order: which rows, and their inputs."""
        first = 0
        for inputs in self.network.training():
            yield slice(first, first + len(inputs)), inputs
            first += len(inputs)

    def flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """By parameter to one vector (p,)."""
        return torch.cat([tensors[name].flatten() for name in self.parameters])

    def shaped(self, vector: Tensor) -> dict[str, Tensor]:
        """One vector (p,) by parameter."""
        pieces = torch.split(vector, [tensor.numel() for tensor in self.parameters.values()])
        return {name: piece.view_as(tensor) for (name, tensor), piece in zip(self.parameters.items(), pieces, strict=True)}

    def _logits_along(self, inputs: Tensor, direction: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The logits of a block and their derivative along a direction, (B, K) each, by forward differentiation."""
        return _derived(lambda parameters: self.network.logits(parameters, inputs), self.parameters, direction)

    def _gauss_newton(self, rows: slice, inputs: Tensor, direction: dict[str, Tensor]) -> dict[str, Tensor]:
        _, change = self._logits_along(inputs, direction)
        reverse: Any = torch.func.vjp(lambda parameters: self.network.logits(parameters, inputs), self.parameters)
        logits, backward = reverse
        (found,) = backward(self.losses.curvature(logits, change, rows) * self.weights[rows, None])
        return dict(found)

    def _hessian(self, rows: slice, inputs: Tensor, direction: dict[str, Tensor]) -> dict[str, Tensor]:
        def objective(parameters: Mapping[str, Tensor]) -> Tensor:
            return (self.weights[rows] * self.losses.values(self.network.logits(parameters, inputs), rows)).sum()

        _, found = _derived(torch.func.grad(objective), self.parameters, direction)
        return dict(found)


def _derived(function: Callable[..., Any], at: Mapping[str, Tensor], along: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """The value of a function and its derivative along a direction."""
    found: Any = torch.func.jvp(function, (at,), (along,))
    return found[0], found[1]
