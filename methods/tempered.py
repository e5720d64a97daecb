"""What is minimised, sample by sample, as tempered cross entropies; its derivatives in the logits.

Knows torch alone: the objective of a method in the form that influence needs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Term(NamedTuple):
    """weight T^2 H(targets, softmax(z / T)) of every sample, which is weight T^2 D(targets || q_T) up to a constant.

    weight (n,) non-negative; targets (n, K) probabilities, one-hot for a hard label. Cross entropy has temperature 1.
    A sample without the term has weight 0 and any finite targets.
    """

    weight: Tensor
    temperature: float
    targets: Tensor


class Losses:
    """The per-sample loss l_i, the sum of its terms, and its derivatives in the logits z.

    `rows` says which samples the logits (B, K) are of. Differentiable, and fit for the transforms of torch.func.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)

    def values(self, logits: Tensor, rows: slice) -> Tensor:
        """l_i, (B,)."""
        total = torch.zeros_like(logits[:, 0])
        for weight, temperature, targets in self.terms:
            log_q = (logits / temperature).log_softmax(dim=1)
            total = total - temperature**2 * weight[rows] * (targets[rows] * log_q).sum(dim=1)
        return total

    def excess(self, logits: Tensor) -> Tensor:
        """l_i less the least value that it can have, the entropies of its targets: (n,), of the logits (n, K) of all samples.

        In float64: at a high T both are nearly T^2 log K.
        """
        total = torch.zeros_like(logits[:, 0], dtype=torch.float64)
        for weight, temperature, targets in self.terms:
            wanted, log_q = targets.double(), (logits.double() / temperature).log_softmax(dim=1)
            each = torch.special.xlogy(wanted, wanted) - wanted * log_q
            total += temperature**2 * weight * each.sum(dim=1)
        return total.to(logits.dtype)

    def gradients(self, logits: Tensor, rows: slice) -> Tensor:
        """dl_i / dz, (B, K): the sum of weight T (q_T - targets)."""
        total = torch.zeros_like(logits)
        for weight, temperature, targets in self.terms:
            q = (logits / temperature).softmax(dim=1)
            total = total + temperature * weight[rows, None] * (q - targets[rows])
        return total

    def curvature(self, logits: Tensor, directions: Tensor, rows: slice) -> Tensor:
        """(d2 l_i / dz2) times directions (B, K): (B, K), the sum of weight (diag(q_T) - q_T q_T^T) applied; T^2 cancels."""
        total = torch.zeros_like(directions)
        for weight, temperature, _ in self.terms:
            q = (logits / temperature).softmax(dim=1)
            along = q * directions
            total = total + weight[rows, None] * (along - q * along.sum(dim=1, keepdim=True))
        return total

    def curvature_sum(self, logits: Tensor, weights: Tensor, rows: slice) -> Tensor:
        """The sum of weights (B,) times d2 l_i / dz2, (K, K)."""
        total = logits.new_zeros(logits.shape[1], logits.shape[1])
        for weight, temperature, _ in self.terms:
            q = (logits / temperature).softmax(dim=1)
            weighted = q * (weights * weight[rows])[:, None]
            total += weighted.sum(dim=0).diag() - q.T @ weighted
        return total

    def curvature_traces(self, logits: Tensor, rows: slice) -> Tensor:
        """The trace of every d2 l_i / dz2, (B,): the sum of weight (1 - |q_T|^2)."""
        total = torch.zeros_like(logits[:, 0])
        for weight, temperature, _ in self.terms:
            total = total + weight[rows] * (1 - (logits / temperature).softmax(dim=1).square().sum(dim=1))
        return total

    def drawn_gradients(self, logits: Tensor, rows: slice, generator: torch.Generator) -> Tensor:
        """Drawn, (B, K): of mean 0, and their covariance is d2 l_i / dz2. The sum of sqrt(weight) (e_y - q_T), y drawn from q_T.

        As K-FAC draws labels from the model (arXiv 1503.05671, section 5), here a label for every term.
        """
        total = torch.zeros_like(logits)
        for weight, temperature, _ in self.terms:
            q = (logits / temperature).softmax(dim=1)
            drawn = functional.one_hot(q.multinomial(1, generator=generator)[:, 0], q.shape[1])
            total += weight[rows, None].sqrt() * (drawn - q)
        return total
