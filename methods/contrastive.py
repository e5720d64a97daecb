"""Contrastive losses on the directions of logits, invariant to their scale.

All are computed in float32 (float64 stays), with autocast off.
"""

import torch
from torch import Tensor

from methods.losses import in_full_precision

# Smallest divisor of centred logits: shorter vectors keep a length below 1. They have no clear
# direction yet, and without this bound their gradient would grow without limit.
LEAST_NORM = 0.1


@in_full_precision
def centred(logits: Tensor) -> Tensor:
    """Return c(x), (..., K): logits (..., K) less their mean, scaled to length 1.

    The result is the same for a x + b, a > 0, while the norm is above `LEAST_NORM`.
    """
    apart = logits - logits.mean(dim=-1, keepdim=True)
    lengths: Tensor = torch.linalg.vector_norm(apart, dim=-1, keepdim=True)
    return apart / lengths.clamp(min=LEAST_NORM)


@in_full_precision
def info_nce(
    student: Tensor, positive: Tensor, negatives: Tensor, present: Tensor, temperature: float
) -> Tensor:
    """Return -log(e^{s+/t} / (e^{s+/t} + sum_j e^{s_j/t})), (B,), from cosines with c(student).

    The value lies between log(1 + N e^{-2/t}) and log(1 + N e^{2/t}).

    Args:
        student: (B, K) logits.
        positive: (B, K) logits.
        negatives: (B, N, K) directions, as `centred` returns them.
        present: (B, N) bool, the negatives that count.
        temperature: t, divisor of the cosines.
    """
    direction = centred(student)
    right = (direction * centred(positive)).sum(dim=1) / temperature  # (B,)
    wrong = torch.einsum("bk,bnk->bn", direction, negatives) / temperature
    wrong = wrong.masked_fill(~present, -torch.inf)
    return torch.cat([right[:, None], wrong], dim=1).logsumexp(dim=1) - right


@in_full_precision
def hinge(student: Tensor, negatives: Tensor, present: Tensor, margin: float) -> Tensor:
    """Return the mean of relu(cosine_j - margin) over the negatives j, (B,), or 0 without any.

    Args:
        student: (B, K) logits.
        negatives: (B, N, K) directions, as `centred` returns them.
        present: (B, N) bool, the negatives that count.
        margin: Cosine above which a negative adds to the loss.
    """
    apart = (torch.einsum("bk,bnk->bn", centred(student), negatives) - margin).relu()
    return (apart * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
