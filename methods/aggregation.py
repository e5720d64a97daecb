"""Aggregate the logits of retrieved samples into target logits, and measure their quality."""

from typing import Literal

import torch
from torch import Tensor

from methods.retrieval import BLOCK_BYTES, ByClass, Neighbours

Quantity = Literal["logit", "prob"]


@torch.no_grad()
def aggregate_logits(
    logits: Tensor,
    neighbours: Neighbours,
    retrieval_temperature: float,
    quantity: Quantity,
    temperature: float,
    rows: Tensor | None = None,
) -> Tensor:
    """Return target logits u, (n, K) float32, aggregated from the logits of the positives.

    The target distribution is softmax(u / temperature). The positives j of a sample have the
    weights a = softmax(similarity / retrieval_temperature). `logit`: u = sum_j a_j v_j. `prob`:
    softmax(u / temperature) = sum_j a_j softmax(v_j / temperature). A sample without positives
    keeps its own logits. This formulation of arXiv 2501.07040 is our own.

    Args:
        logits: (n, K) logits v of all samples.
        neighbours: Retrieved positives and their similarities.
        retrieval_temperature: Divisor of the similarities; inf gives equal weights.
        quantity: The averaged quantity, `logit` or `prob`.
        temperature: T of the target distribution.
        rows: (B,) samples to aggregate for; the result is then (B, K). None selects all samples.
    """
    rows = torch.arange(len(logits), device=logits.device) if rows is None else rows
    entries = max(1, neighbours.positives.shape[1]) * logits.shape[1]
    parts = []
    for block in torch.split(rows, max(1, BLOCK_BYTES // (4 * entries))):
        positives, similarity = neighbours.positives[block], neighbours.positive_similarity[block]
        present = positives != -1
        weights = (similarity / retrieval_temperature).masked_fill(~present, -torch.inf).softmax(1)
        quantities = _averaged_quantity(
            logits[positives.clamp(min=0).long()], quantity, temperature
        )
        average = _target_logits((weights[:, :, None] * quantities).sum(1), quantity, temperature)
        parts.append(torch.where(present.any(1, keepdim=True), average, logits[block].float()))
    return torch.cat(parts)


@torch.no_grad()
def aggregate_class_logits(
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    retrieval_temperature: float,
    quantity: Quantity,
    temperature: float,
    members: Tensor | None = None,
) -> Tensor:
    """Return `aggregated` (n, K) with all other members of a sample's class as its positives.

    Similarities are cosines of the features. The softmax is accumulated block by block, as in arXiv
    2205.14135.

    Args:
        features: (n, D) features.
        logits: (n, K) logits.
        labels: (n,) labels, -1 for unlabelled samples.
        retrieval_temperature: Divisor of the similarities.
        quantity: The averaged quantity, `logit` or `prob`.
        temperature: T of the target distribution.
        members: (n,) bool, the samples that can be retrieved, as in `nearest`; None means all.
    """
    bank = ByClass(features, labels, members)
    result = logits.to(torch.float32, copy=True)
    for queries, start, stop in bank.blocks(torch.arange(len(labels), device=labels.device)):
        highest = logits.new_full(
            (len(queries), 1), -1 / retrieval_temperature, dtype=torch.float32
        )
        total, average = torch.zeros_like(highest), result.new_zeros(len(queries), logits.shape[1])
        for positions, cosines in bank.similarities(queries, start, stop):
            is_self = cosines.isneginf()
            scaled = cosines.div_(retrieval_temperature).masked_fill_(is_self, -torch.inf)
            previous, highest = highest, torch.maximum(highest, scaled.amax(1, keepdim=True))
            weights, old_scale = (scaled - highest).exp_(), (previous - highest).exp_()
            total = total * old_scale + weights.sum(1, keepdim=True)
            with torch.autocast(weights.device.type, enabled=False):
                average = average * old_scale + weights @ _averaged_quantity(
                    logits[positions], quantity, temperature
                )
        has_positives = (total > 0).squeeze(1)
        result[queries[has_positives]] = _target_logits(
            average[has_positives] / total[has_positives], quantity, temperature
        )
    return result


def target_entropy(targets: Tensor, temperature: float = 1.0) -> float:
    """Return the mean entropy of softmax(u / temperature) in nats, from target logits u (n, K)."""
    total = 0.0
    for block in torch.split(targets, max(1, BLOCK_BYTES // (4 * targets.shape[1]))):
        log_p = (block.float() / temperature).log_softmax(1)
        total -= float((log_p.exp() * log_p).sum())
    return total / len(targets)


def positive_accuracy(logits: Tensor, labels: Tensor, neighbours: Neighbours) -> float:
    """Return the share of retrieved positives that their own logits classify correctly.

    A positive counts as correct if its largest logit (n, K) is at its given label (n,). The result
    is NaN if there are no positives.
    """
    correct = logits.argmax(1) == labels
    positions = neighbours.positives[neighbours.positives != -1].long()
    return float(correct[positions].float().mean())


def _averaged_quantity(logits: Tensor, quantity: Quantity, temperature: float) -> Tensor:
    """Return the quantity to average, (..., K) float32: logits or probabilities."""
    return logits.float() if quantity == "logit" else (logits.float() / temperature).softmax(-1)


def _target_logits(mean: Tensor, quantity: Quantity, temperature: float) -> Tensor:
    """Return the target logits of an average; the logarithm of a zero probability stays finite."""
    if quantity == "logit":
        return mean
    return mean.clamp(min=torch.finfo(mean.dtype).tiny).log() * temperature
