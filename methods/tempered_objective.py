"""Per-sample objectives as sums of tempered cross entropies, and their logit derivatives."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Term(NamedTuple):
    """weight T^2 H(targets, softmax(z / T)) of every sample.

    This is weight T^2 D(targets || q_T) up to a constant. Cross entropy has temperature 1.

    Attributes:
        weight: (n,) non-negative; 0 for a sample without the term.
        temperature: T.
        targets: (n, K) probabilities, one-hot for a hard label; any finite values where the weight
            is 0.
    """

    weight: Tensor
    temperature: float
    targets: Tensor


class Losses:
    """Per-sample loss l_i, the sum of its terms, and its derivatives in the logits z.

    `rows` selects the samples of the logits (B, K). All are differentiable and work with the
    transforms of torch.func.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)

    def values(self, logits: Tensor, rows: slice) -> Tensor:
        """Return l_i, (B,)."""
        total = torch.zeros_like(logits[:, 0])
        for weight, temperature, targets in self.terms:
            log_q = (logits / temperature).log_softmax(dim=1)
            total = total - temperature**2 * weight[rows] * (targets[rows] * log_q).sum(dim=1)
        return total

    def excess(self, logits: Tensor) -> Tensor:
        """Return l_i less its least possible value, the entropies of its targets, (n,).

        The logits (n, K) are those of all samples. Computed in float64: at a high T both are nearly
        T^2 log K.
        """
        total = torch.zeros_like(logits[:, 0], dtype=torch.float64)
        for weight, temperature, targets in self.terms:
            wanted, log_q = targets.double(), (logits.double() / temperature).log_softmax(dim=1)
            each = torch.special.xlogy(wanted, wanted) - wanted * log_q
            total += temperature**2 * weight * each.sum(dim=1)
        return total.to(logits.dtype)

    def gradients(self, logits: Tensor, rows: slice) -> Tensor:
        """Return dl_i / dz, (B, K): the sum of weight T (q_T - targets)."""
        total = torch.zeros_like(logits)
        for weight, temperature, targets in self.terms:
            q = (logits / temperature).softmax(dim=1)
            total = total + temperature * weight[rows, None] * (q - targets[rows])
        return total

    def curvature(self, logits: Tensor, directions: Tensor, rows: slice) -> Tensor:
        """Return (d2 l_i / dz2) applied to directions (B, K): (B, K).

        It is the sum of weight (diag(q_T) - q_T q_T^T) applied to them; T^2 cancels.
        """
        total = torch.zeros_like(directions)
        for weight, temperature, _ in self.terms:
            q = (logits / temperature).softmax(dim=1)
            along = q * directions
            total = total + weight[rows, None] * (along - q * along.sum(dim=1, keepdim=True))
        return total

    def curvature_sum(self, logits: Tensor, weights: Tensor, rows: slice) -> Tensor:
        """Return the sum of weights (B,) times d2 l_i / dz2, (K, K)."""
        total = logits.new_zeros(logits.shape[1], logits.shape[1])
        for weight, temperature, _ in self.terms:
            q = (logits / temperature).softmax(dim=1)
            weighted = q * (weights * weight[rows])[:, None]
            total += weighted.sum(dim=0).diag() - q.T @ weighted
        return total

    def curvature_traces(self, logits: Tensor, rows: slice) -> Tensor:
        """Return the trace of every d2 l_i / dz2, (B,): the sum of weight (1 - |q_T|^2)."""
        total = torch.zeros_like(logits[:, 0])
        for weight, temperature, _ in self.terms:
            total = total + weight[rows] * (
                1 - (logits / temperature).softmax(dim=1).square().sum(dim=1)
            )
        return total

    def drawn_gradients(self, logits: Tensor, rows: slice, generator: torch.Generator) -> Tensor:
        """Return random gradients (B, K) with mean 0 and covariance d2 l_i / dz2.

        They are the sum of sqrt(weight) (e_y - q_T), with y drawn from q_T. K-FAC draws labels from
        the model in this way (arXiv 1503.05671, section 5); here each term has its own label.
        """
        total = torch.zeros_like(logits)
        for weight, temperature, _ in self.terms:
            q = (logits / temperature).softmax(dim=1)
            drawn = functional.one_hot(q.multinomial(1, generator=generator)[:, 0], q.shape[1])
            total += weight[rows, None].sqrt() * (drawn - q)
        return total
