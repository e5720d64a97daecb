"""Divergences and cross entropy from logits: pure functions that know no method, batch or training loop.

Everything is computed in log space and in float32 (float64 stays), with autocast switched off, and sums over classes.
What is multiplied by T^2 is computed in float64: at T = 1000 the logarithms that it is a difference of agree to six digits.
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


def full_type(tensor: Tensor) -> torch.dtype:
    """Return the type of a loss of this tensor: float32 for half types, else its own."""
    return torch.promote_types(tensor.dtype, torch.float32)


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
    log_p = (teacher_logits.double() / temperature).log_softmax(dim=1)
    divergence: Tensor = kl_divergence(log_p, (student_logits.double() / temperature).log_softmax(dim=1))
    return divergence.to(student_logits.dtype)


@in_full_precision
def transformed_teacher_kl(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """D(p_T || q), (B,), from logits (B, K), the teacher alone softened (arXiv 2402.11148, equation 2)."""
    log_p = (teacher_logits / temperature).log_softmax(dim=1)
    return kl_divergence(log_p, student_logits.log_softmax(dim=1))


def log_power_sum(teacher_logits: Tensor, temperature: float) -> Tensor:
    """log U_{1/T}(p), (B,) float64, U the sum of p^(1/T) of the untempered p of logits (B, K) (arXiv 2402.11148, equation 22).

    U is between 1 (one-hot p) and K^(1 - 1/T) (uniform p) for T >= 1; for T < 1 between these in the other order, and then it may
    be less than float32 can hold.
    """
    return (teacher_logits.double().log_softmax(dim=1) / temperature).logsumexp(dim=1)


@in_full_precision
def normalized_entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """H(p_T) / log K, (B,) in [0, 1], from logits (B, K) of two classes or more; one less it is D(p_T || uniform) / log K.

    0 where p_T is one-hot, 1 where it is uniform.
    """
    log_p = (logits / temperature).log_softmax(dim=1)
    return (-(log_p.exp() * log_p).sum(dim=1) / math.log(logits.shape[1])).clamp(0, 1)


@in_full_precision
def cross_entropy(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, partners: Tensor | None = None, share: Tensor | None = None
) -> Tensor:
    """Mean of `cross_entropies` over the labelled shares: a scalar, from logits (B, K) and labels (B,).

    Samples labelled -1 do not count; where all are, the loss is zero and its gradient too.
    """
    counted = labelled_shares(labels, partners, share).sum()
    return cross_entropies(logits, labels, label_smoothing, partners, share).sum() / (counted + (counted == 0))


@in_full_precision
def cross_entropies(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, partners: Tensor | None = None, share: Tensor | None = None
) -> Tensor:
    """H((1 - s) e_y + s / K, q) of each sample, (B,), from logits (B, K) and labels y (B,); 0 where the label is -1.

    With partners y' (B,) and share (B,) it is share H(y, q) + (1 - share) H(y', q), the loss of mixup (arXiv 1710.09412) and
    cutmix (arXiv 1905.04899), in which a label -1 does not count.
    """
    each = functools.partial(functional.cross_entropy, logits, ignore_index=-1, reduction="none", label_smoothing=label_smoothing)
    if partners is None or share is None:
        return each(labels)
    return share * each(labels) + (1 - share) * each(partners)


def labelled_shares(labels: Tensor, partners: Tensor | None = None, share: Tensor | None = None) -> Tensor:
    """Return how much of each sample is labelled, (B,) float32 in [0, 1]: 0 or 1, or in between where samples are blended."""
    known = (labels != -1).float()
    if partners is None or share is None:
        return known
    return share * known + (1 - share) * (partners != -1)
