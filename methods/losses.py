"""Divergences and cross entropy from logits.

All are computed in log space and float32 (float64 stays), with autocast off, and sum over classes.
Anything multiplied by T^2 is computed in float64. At T = 1000 it is a difference of logarithms that
agree to six digits. Logits must be finite: a class masked with -inf gives NaN.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional

LEAST_DEVIATION = 1e-7  # of logits with a scale; less is rounding
_HALF = (torch.float16, torch.bfloat16)
_Loss = TypeVar("_Loss", bound=Callable[..., Tensor | tuple[Tensor, ...]])


def in_full_precision(loss: _Loss) -> _Loss:
    """Wrap a loss to run without autocast and with half types cast to float32.

    The first argument determines the device.
    """

    @functools.wraps(loss)
    def run(first: Tensor, *others: Any, **named: Any) -> Tensor | tuple[Tensor, ...]:
        if not torch.is_autocast_enabled(first.device.type):
            return loss(
                _upcast(first),
                *map(_upcast, others),
                **{name: _upcast(value) for name, value in named.items()},
            )
        with torch.autocast(first.device.type, enabled=False):
            return run(first, *others, **named)

    return cast(_Loss, run)


def _upcast(value: Any) -> Any:
    is_half = isinstance(value, Tensor) and value.dtype in _HALF
    return value.float() if is_half else value


def full_type(tensor: Tensor) -> torch.dtype:
    """Return the type of a loss of this tensor: float32 for half types, else its own."""
    return torch.promote_types(tensor.dtype, torch.float32)


@in_full_precision
def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return D(p || q) in nats, (B,), from log-probabilities (B, K) each."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=1)


@in_full_precision
def log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log p_T, (B, K), from logits (B, K)."""
    return (logits / temperature).log_softmax(dim=1)


@in_full_precision
def tempered_kl(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """Return D(p_T || q_T), (B,), from logits (B, K), both softened.

    Hinton's term is T^2 times this (arXiv 1503.02531).
    """
    log_p = (teacher_logits.double() / temperature).log_softmax(dim=1)
    divergence: Tensor = kl_divergence(
        log_p, (student_logits.double() / temperature).log_softmax(dim=1)
    )
    return divergence.to(student_logits.dtype)


@in_full_precision
def standardize(logits: Tensor) -> Tensor:
    """Return the z-scores (B, K) of the logits of each sample (arXiv 2403.01427, equation 9).

    The standard deviation over the classes has the divisor K - 1, as in the released code. Logits
    that are all equal have no scale: their z-scores and gradient are 0.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    deviation = centred.std(dim=1, keepdim=True)
    return centred / deviation.where(deviation > LEAST_DEVIATION, math.inf)


@in_full_precision
def decoupled_kl(
    teacher_logits: Tensor, student_logits: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return TCKD and NCKD, (B,) each, from logits (B, K), both softened (arXiv 2203.08679).

    TCKD is the divergence of the binary distributions (p_y, 1 - p_y), NCKD that of the
    distributions over the other classes. D(p_T || q_T) = TCKD + (1 - p_y) NCKD (equation 5). A
    label -1 gives finite values without meaning.
    """
    target = labels.clamp(min=0)[:, None]
    teacher, student = (
        (logits.double() / temperature).log_softmax(dim=1)
        for logits in (teacher_logits, student_logits)
    )
    known, others = zip(*(_split_target(each, target) for each in (teacher, student)), strict=True)
    binary = kl_divergence(*known)
    other_classes = kl_divergence(*others)
    kind = student_logits.dtype
    return binary.to(kind), other_classes.to(kind)


def _split_target(log_p: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Split log p (B, K) into the two factors of a distribution with a target class (B, 1).

    Returns:
        (B, 2) log-probabilities of the target and of all other classes; (B, K - 1) those of the
        other classes among themselves.
    """
    first = torch.arange(log_p.shape[1] - 1, device=log_p.device)
    others = log_p.gather(1, first + (first >= target).long())
    rest = others.logsumexp(dim=1, keepdim=True)
    return torch.cat([log_p.gather(1, target), rest], dim=1), others - rest


@in_full_precision
def transformed_teacher_kl(
    teacher_logits: Tensor, student_logits: Tensor, temperature: float
) -> Tensor:
    """Return D(p_T || q), (B,), from logits (B, K); only the teacher is softened.

    Source: arXiv 2402.11148, equation 2.
    """
    log_p = (teacher_logits / temperature).log_softmax(dim=1)
    return kl_divergence(log_p, student_logits.log_softmax(dim=1))


def log_power_sum(teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return log U_{1/T}(p), (B,) float64, from logits (B, K) (arXiv 2402.11148, equation 22).

    U is the sum of p^(1/T) of the untempered p. For T >= 1 it lies between 1 (one-hot p) and K^(1 -
    1/T) (uniform p). For T < 1 the order is reversed, and U may be too small for float32.
    """
    return (teacher_logits.double().log_softmax(dim=1) / temperature).logsumexp(dim=1)


@in_full_precision
def normalized_entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return H(p_T) / log K, (B,) in [0, 1], from logits (B, K) of two or more classes.

    It is 0 for a one-hot p_T and 1 for a uniform one. 1 minus it is D(p_T || uniform) / log K.
    """
    log_p = (logits / temperature).log_softmax(dim=1)
    return (-(log_p.exp() * log_p).sum(dim=1) / math.log(logits.shape[1])).clamp(0, 1)


@in_full_precision
def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    partners: Tensor | None = None,
    share: Tensor | None = None,
) -> Tensor:
    """Return the mean of `cross_entropies` over the labelled shares, ().

    Samples labelled -1 do not count. If all are, the loss and its gradient are zero.

    Args:
        logits: (B, K) logits.
        labels: (B,) labels, -1 for unlabelled samples.
        label_smoothing: s, share of the target that is uniform over all classes.
        partners: (B,) labels of the blended partners.
        share: (B,) weight of a sample's own label.
    """
    counted = labelled_shares(labels, partners, share).sum()
    return cross_entropies(logits, labels, label_smoothing, partners, share).sum() / (
        counted + (counted == 0)
    )


@in_full_precision
def mean_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the mean of `cross_entropies`, (), in one kernel; every sample has a label."""
    return functional.cross_entropy(logits, labels, label_smoothing=label_smoothing)


@in_full_precision
def cross_entropies(
    logits: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    partners: Tensor | None = None,
    share: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return H((1 - s) e_y + s / K, q) of each sample, (B,); 0 if the label is -1.

    With partners y' it is share H(y, q) + (1 - share) H(y', q), where a label -1 does not count.
    This is the loss of mixup (arXiv 1710.09412) and cutmix (arXiv 1905.04899).

    Args:
        logits: (B, K) logits.
        labels: (B,) labels y.
        label_smoothing: s, share of the target that is uniform over all classes.
        partners: (B,) labels y'.
        share: (B,) weight of a sample's own label.
        class_weights: (K,) factor of each class's term, as in torch's `cross_entropy`.
    """
    each = functools.partial(
        functional.cross_entropy,
        logits,
        weight=None if class_weights is None else class_weights.to(logits.dtype),
        ignore_index=-1,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    if partners is None or share is None:
        return each(labels)
    return share * each(labels) + (1 - share) * each(partners)


def labelled_shares(
    labels: Tensor,
    partners: Tensor | None = None,
    share: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the labelled share of each sample, (B,) float32: 0 or 1, or between if blended.

    With `class_weights` (K,) each label counts by the weight of its class.
    """
    known = _count_labels(labels, class_weights)
    if partners is None or share is None:
        return known
    return share * known + (1 - share) * _count_labels(partners, class_weights)


def _count_labels(labels: Tensor, class_weights: Tensor | None) -> Tensor:
    known = (labels != -1).float()
    return known if class_weights is None else known * class_weights[labels.clamp(min=0)]
