"""What the samples that are similar to a query say together: target logits, and numbers that tell how good they are.

Pure torch. Knows logits, and who was retrieved; no method and no training loop.
"""

from typing import Literal

import torch
from torch import Tensor

from methods.retrieval import BLOCK_BYTES, ByClass, Neighbours

How = Literal["logit", "prob"]


@torch.no_grad()
def aggregated(
    logits: Tensor,
    neighbours: Neighbours,
    retrieval_temperature: float,
    how: How,
    temperature: float,
    rows: Tensor | None = None,
) -> Tensor:
    """Target logits u, (n, K) float32, out of the logits (n, K) of the samples' positives: the target is softmax(u / temperature).

    The weights of a sample's positives are a = softmax(similarity / retrieval_temperature), which may be inf: all alike. `logit`:
    u = sum_j a_j v_j; `prob`: softmax(u / temperature) = sum_j a_j softmax(v_j / temperature). A sample without positives has its
    own logits. `rows` (B,): of these samples alone, (B, K). Our own formulation of 2501.07040.
    """
    rows = torch.arange(len(logits), device=logits.device) if rows is None else rows
    entries = max(1, neighbours.positives.shape[1]) * logits.shape[1]
    parts = []
    for some in torch.split(rows, max(1, BLOCK_BYTES // (4 * entries))):
        positives, similarity = neighbours.positives[some], neighbours.positive_similarity[some]
        there = positives != -1
        weights = (similarity / retrieval_temperature).masked_fill(~there, -torch.inf).softmax(1)
        said = _said(logits[positives.clamp(min=0).long()], how, temperature)
        together = _target((weights[:, :, None] * said).sum(1), how, temperature)
        parts.append(torch.where(there.any(1, keepdim=True), together, logits[some].float()))
    return torch.cat(parts)


@torch.no_grad()
def class_aggregated(
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    retrieval_temperature: float,
    how: How,
    temperature: float,
    members: Tensor | None = None,
) -> Tensor:
    """`aggregated` (n, K) where the positives of a sample are all other members of its class, by cosines of features (n, D).

    Labels (n,), -1 = without label, and `members` (n,) bool as in `nearest`. The softmax is summed up part by part, as it is in
    2205.14135.
    """
    bank = ByClass(features, labels, members)
    result = logits.to(torch.float32, copy=True)
    for chosen, start, stop in bank.blocks(torch.arange(len(labels), device=labels.device)):
        highest = logits.new_full((len(chosen), 1), -1 / retrieval_temperature, dtype=torch.float32)
        total, together = torch.zeros_like(highest), result.new_zeros(len(chosen), logits.shape[1])
        for places, cosines in bank.similarities(chosen, start, stop):
            itself = cosines.isneginf()
            scaled = cosines.div_(retrieval_temperature).masked_fill_(itself, -torch.inf)
            before, highest = highest, torch.maximum(highest, scaled.amax(1, keepdim=True))
            weights, shrunk = (scaled - highest).exp_(), (before - highest).exp_()
            total = total * shrunk + weights.sum(1, keepdim=True)
            with torch.autocast(weights.device.type, enabled=False):
                together = together * shrunk + weights @ _said(logits[places], how, temperature)
        heard = (total > 0).squeeze(1)
        result[chosen[heard]] = _target(together[heard] / total[heard], how, temperature)
    return result


def target_entropy(targets: Tensor, temperature: float = 1.0) -> float:
    """The mean entropy of softmax(u / temperature) in nats, of target logits u (n, K)."""
    total = 0.0
    for some in torch.split(targets, max(1, BLOCK_BYTES // (4 * targets.shape[1]))):
        log_p = (some.float() / temperature).log_softmax(1)
        total -= float((log_p.exp() * log_p).sum())
    return total / len(targets)


def rightly_retrieved(logits: Tensor, labels: Tensor, neighbours: Neighbours) -> float:
    """The share of the retrieved positives whose own logits (n, K) are largest at their label (n,), as given; NaN without any."""
    right = logits.argmax(1) == labels
    places = neighbours.positives[neighbours.positives != -1].long()
    return float(right[places].float().mean())


def _said(logits: Tensor, how: How, temperature: float) -> Tensor:
    """What is averaged, (..., K) float32."""
    return logits.float() if how == "logit" else (logits.float() / temperature).softmax(-1)


def _target(mean: Tensor, how: How, temperature: float) -> Tensor:
    """The target logits of what was averaged; the logarithm of a probability that is 0 in float32 stays finite."""
    return mean if how == "logit" else mean.clamp(min=torch.finfo(mean.dtype).tiny).log() * temperature
