"""Contrast in logit space: a student near one target and away from others, whatever the scale of its logits.

Pure functions that know no method, batch or bank; in float32 (float64 stays), with autocast switched off.
"""

import torch
from torch import Tensor

from methods.losses import in_full_precision

# Norm of centred logits below which they count as so much shorter: such a student has no direction yet, and without a floor the
# gradient would grow beyond bounds.
LEAST_NORM = 0.1


@in_full_precision
def centred(logits: Tensor) -> Tensor:
    """c(x), (..., K): logits (..., K) less their mean, of length one; the same for a x + b, a > 0, above `LEAST_NORM`."""
    apart = logits - logits.mean(dim=-1, keepdim=True)
    lengths: Tensor = torch.linalg.vector_norm(apart, dim=-1, keepdim=True)
    return apart / lengths.clamp(min=LEAST_NORM)


@in_full_precision
def info_nce(student: Tensor, positive: Tensor, negatives: Tensor, present: Tensor, temperature: float) -> Tensor:
    """-log(e^{s+/t} / (e^{s+/t} + sum_j e^{s_j/t})), (B,), of the cosines between c(student) and the others.

    student and positive (B, K) logits; negatives (B, N, K) directions, as `centred` gives them; present (B, N) bool: those that
    count. Between log(1 + N e^{-2/t}) and log(1 + N e^{2/t}).
    """
    direction = centred(student)
    right = (direction * centred(positive)).sum(dim=1) / temperature  # (B,)
    wrong = torch.einsum("bk,bnk->bn", direction, negatives) / temperature
    wrong = wrong.masked_fill(~present, -torch.inf)
    return torch.cat([right[:, None], wrong], dim=1).logsumexp(dim=1) - right


@in_full_precision
def hinge(student: Tensor, negatives: Tensor, present: Tensor, margin: float) -> Tensor:
    """The mean over the negatives j of relu(cosine_j - margin), (B,), 0 without any; arguments as in `info_nce`."""
    apart = (torch.einsum("bk,bnk->bn", centred(student), negatives) - margin).relu()
    return (apart * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)
