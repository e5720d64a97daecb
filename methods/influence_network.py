"""Influence problem of a whole network: curvature products and per-sample directional gradients."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from methods.influence import Problem
from methods.sample_weighting import SurveyedNetwork
from methods.tempered_objective import Losses


class WholeNetwork(Problem):
    """All parameters of a surveyed network as one vector, in the order of its `parameters`.

    `labels` (m,) are those of the held-out part, -1 for unlabelled samples; `weights` (n,) are the
    current w_i. The curvature is Gauss-Newton, J^T (d2l/dz2) J, which is positive semi-definite
    (Schraudolph 2002). With `hessian` it is the Hessian (Pearlmutter 1994), which may be
    indefinite. The survey defines the blocks. No per-sample gradient is ever stored.
    """

    def __init__(
        self,
        network: SurveyedNetwork,
        losses: Losses,
        labels: Tensor,
        weights: Tensor,
        hessian: bool = False,
    ) -> None:
        self.network = network
        self.losses = losses
        self.labels = labels
        self.weights = weights
        self.hessian = hessian
        self.parameters = {name: tensor.detach() for name, tensor in network.parameters.items()}

    @property
    def size(self) -> int:
        """Return p, the number of parameters."""
        return sum(tensor.numel() for tensor in self.parameters.values())

    @property
    def samples(self) -> int:
        """Return n, the number of training samples."""
        return len(self.weights)

    def held_out_gradient(self) -> Tensor:
        """Return g_V, (p,), by reverse differentiation in one pass over the held-out part."""
        known, first = (self.labels != -1).sum().clamp(min=1), 0
        total = self.to_vector(
            {name: torch.zeros_like(tensor) for name, tensor in self.parameters.items()}
        )
        for inputs in self.network.held_out():
            labels = self.labels[first : first + len(inputs)]
            first += len(inputs)

            def loss(
                parameters: Mapping[str, Tensor], inputs: Tensor = inputs, labels: Tensor = labels
            ) -> Tensor:
                logits = self.network.logits(parameters, inputs)
                return (
                    functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
                    / known
                )

            total += self.to_vector(torch.func.grad(loss)(self.parameters))
        return total

    def product(self, vector: Tensor) -> Tensor:
        """Return H v, (p,), by forward and reverse differentiation of every block."""
        direction, total = self.to_tensors(vector), torch.zeros_like(vector)
        for rows, inputs in self.blocks():
            total += self.to_vector(
                (self._hessian if self.hessian else self._gauss_newton)(rows, inputs, direction)
            )
        return total / self.samples

    def directional_derivatives(self, vector: Tensor) -> Tensor:
        """Return grad l_i . v of every sample, (n,).

        One forward differentiation per block gives dz_i along v; dl_i/dz_i has a closed form.
        """
        direction, derivatives = self.to_tensors(vector), []
        for rows, inputs in self.blocks():
            logits, change = self._logits_and_change(inputs, direction)
            derivatives.append((self.losses.gradients(logits, rows) * change).sum(dim=1))
        return torch.cat(derivatives)

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the rows and the inputs of the training part, block by block and in order."""
        first = 0
        for inputs in self.network.training():
            yield slice(first, first + len(inputs)), inputs
            first += len(inputs)

    def to_vector(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return tensors by parameter name as one vector (p,)."""
        return torch.cat([tensors[name].flatten() for name in self.parameters])

    def to_tensors(self, vector: Tensor) -> dict[str, Tensor]:
        """Return one vector (p,) as tensors by parameter name."""
        pieces = torch.split(vector, [tensor.numel() for tensor in self.parameters.values()])
        return {
            name: piece.view_as(tensor)
            for (name, tensor), piece in zip(self.parameters.items(), pieces, strict=True)
        }

    def _logits_and_change(
        self, inputs: Tensor, direction: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of a block and their derivative along a direction, (B, K) each.

        Forward differentiation computes both.
        """
        return _jvp(
            lambda parameters: self.network.logits(parameters, inputs), self.parameters, direction
        )

    def _gauss_newton(
        self, rows: slice, inputs: Tensor, direction: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        _, change = self._logits_and_change(inputs, direction)
        reverse: Any = torch.func.vjp(
            lambda parameters: self.network.logits(parameters, inputs), self.parameters
        )
        logits, backward = reverse
        (products,) = backward(
            self.losses.curvature(logits, change, rows) * self.weights[rows, None]
        )
        return dict(products)

    def _hessian(
        self, rows: slice, inputs: Tensor, direction: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        def objective(parameters: Mapping[str, Tensor]) -> Tensor:
            return (
                self.weights[rows]
                * self.losses.values(self.network.logits(parameters, inputs), rows)
            ).sum()

        _, products = _jvp(torch.func.grad(objective), self.parameters, direction)
        return dict(products)


def _jvp(
    function: Callable[..., Any], primals: Mapping[str, Tensor], tangents: Mapping[str, Tensor]
) -> tuple[Any, Any]:
    """Return the value of a function and its derivative along a direction."""
    value_and_derivative: Any = torch.func.jvp(function, (primals,), (tangents,))
    return value_and_derivative[0], value_and_derivative[1]
