"""Divergences and cross entropy from logits: pure functions that know no method, batch or training loop.

Everything is computed in log space and in float32 (float64 stays), with autocast switched off, and sums over classes.
Logits are finite: a class masked with -inf gives NaN.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional

_Loss = TypeVar("_Loss", bound=Callable[..., Tensor])


def in_full_precision(loss: _Loss) -> _Loss:
    """The loss with autocast off, on tensors whose half types were made float32; the first argument says the device."""

    @functools.wraps(loss)
    def run(first: Tensor, *others: Any, **named: Any) -> Tensor:
        with torch.autocast(first.device.type, enabled=False):
            return loss(_upcast(first), *map(_upcast, others), **{name: _upcast(value) for name, value in named.items()})

    return cast(_Loss, run)


def _upcast(value: Any) -> Any:
    is_half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if is_half else value


@in_full_precision
def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """D(p || q) in nats, (B,), from log-probabilities (B, K) each."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


@in_full_precision
def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """log p_T, (B, K), from logits (B, K)."""
    return (logits / temperature).log_softmax(dim=1)


@in_full_precision
def tempered_kl(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """D(p_T || q_T), (B,), from logits (B, K), both softened; Hinton's term is T^2 times this (arXiv 1503.02531)."""
    log_p = (teacher_logits / temperature).log_softmax(dim=1)
    return kl_divergence(log_p, (student_logits / temperature).log_softmax(dim=1))


@in_full_precision
def transformed_teacher_kl(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """D(p_T || q), (B,), from logits (B, K), the teacher alone softened (arXiv 2402.11148, equation 2)."""
    log_p = (teacher_logits / temperature).log_softmax(dim=1)
    return kl_divergence(log_p, student_logits.log_softmax(dim=1))


@in_full_precision
def power_sum(teacher_logits: Tensor, temperature: float) -> Tensor:
    """U_{1/T}(p) = sum of p^(1/T), (B,), of the untempered p from logits (B, K) (arXiv 2402.11148, equation 22).

    Between 1 (one-hot p) and K^(1 - 1/T) (uniform p) for T >= 1.
    """
    return (teacher_logits.log_softmax(dim=1) / temperature).logsumexp(dim=1).exp()


@in_full_precision
def normalized_entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """H(p_T) / log K, (B,) in [0, 1], from logits (B, K) of two classes or more; one less it is D(p_T || uniform) / log K.

    0 where p_T is one-hot, 1 where it is uniform.
    """
    log_p = (logits / temperature).log_softmax(dim=1)
    return (-(log_p.exp() * log_p).sum(dim=1) / math.log(logits.shape[1])).clamp(0, 1)


@in_full_precision
def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean of H((1 - s) e_y + s / K, q) over the labelled samples: a scalar, from logits (B, K) and labels (B,).

    Samples labelled -1 do not count; where all are, the loss is zero and its gradient too.
    """
    total = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="sum", label_smoothing=label_smoothing)
    return total / (labels != -1).sum().clamp(min=1)


@in_full_precision
def cross_entropies(logits: Tensor, labels: Tensor, partners: Tensor | None = None, share: Tensor | None = None) -> Tensor:
    """The samples' shares of `cross_entropy` or, with partners, of `mixed_cross_entropy`: (B,), whose mean is that loss."""
    own = labels != -1  # (B,)
    each = functional.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
    if partners is None or share is None:
        return each * (len(own) / own.sum().clamp(min=1))
    mine, other = share * own, (1 - share) * (partners != -1)
    counted = (mine + other).sum()
    blended = mine * each + other * functional.cross_entropy(logits, partners, ignore_index=-1, reduction="none")
    return blended * (len(own) / (counted + (counted == 0)))


@in_full_precision
def mixed_cross_entropy(logits: Tensor, labels: Tensor, partners: Tensor, share: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean of share H(y, q) + (1 - share) H(y', q): a scalar, from logits (B, K), labels y and partners y' (B,), share (B,).

    The loss of mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899). A label -1 does not count, and the mean is over
    the shares that are labelled; where they sum to zero, the loss is zero and its gradient too. At share one it is
    `cross_entropy`.
    """
    each = functools.partial(functional.cross_entropy, logits, ignore_index=-1, reduction="none", label_smoothing=label_smoothing)
    own, other = share * (labels != -1), (1 - share) * (partners != -1)  # (B,)
    counted = (own + other).sum()
    return (own * each(labels) + other * each(partners)).sum() / (counted + (counted == 0))
