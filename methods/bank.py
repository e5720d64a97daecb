"""Memory bank: entries and retrieval targets of the training samples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.aggregation import (
    Quantity,
    aggregate_class_logits,
    aggregate_logits,
    positive_accuracy,
    target_entropy,
)
from methods.contrastive import centred
from methods.method import Knowledge
from methods.retrieval import Neighbours

TABLE_BYTES = 2**31  # limit of a precomputed (n, K) table; a larger one is computed per batch
MAX_ENTROPY_SAMPLES = 16_384  # maximal number of samples whose entropies are tracked


@dataclass(frozen=True)
class BankQuery:
    """Query of a bank: numbers of neighbours, and aggregation of the positives into a target.

    The target is the mean over the positives with the weights softmax(similarity /
    retrieval_temperature).

    Attributes:
        positives: Positives per target; None means no target, 0 the whole class.
        negatives: Negatives per sample.
        retrieval_temperature: Divisor of the similarities.
        aggregate: The averaged quantity: logits (`logit`), or distributions at `temperature`
            (`prob`).
        temperature: T of the target distribution.
    """

    positives: int | None
    negatives: int
    retrieval_temperature: float
    aggregate: Quantity
    temperature: float


class Bank:
    """Bank built once from the knowledge of n samples, on its device and without gradients.

    `neighbours` holds the retrieved samples.
    """

    @torch.no_grad()
    def __init__(self, knowledge: Knowledge, query: BankQuery) -> None:
        self.knowledge, self.query = knowledge, query
        self.neighbours: Neighbours = knowledge.neighbours(query.positives or 0, query.negatives)
        logits = knowledge.logits
        fits = logits.numel() * 4 <= TABLE_BYTES
        self.targets = (
            None
            if query.positives is None
            else self._aggregate_class()
            if query.positives == 0
            else None
        )
        if query.positives and fits:
            self.targets = self._aggregate_positives()
        self.directions = centred(logits) if query.negatives and fits else None
        self.quality = self._measure_quality()

    def logits(self, index: Tensor) -> Tensor:
        """Return the bank's logits of the samples themselves, (B, K)."""
        return self.knowledge.logits.index_select(0, index)

    def target(self, index: Tensor) -> Tensor:
        """Return target logits (B, K) from the samples' positives, to soften at `temperature`.

        A sample without positives has its own logits.
        """
        if self.targets is None:
            return self._aggregate_positives(index)
        return self.targets.index_select(0, index)

    def negatives(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the directions (B, N, K) of the samples' negatives and their mask (B, N).

        The mask is true for negatives that exist.
        """
        positions = self.neighbours.negatives.index_select(0, index)  # (B, N)
        present = positions >= 0
        chosen = positions.clamp(min=0).flatten()
        if self.directions is not None:
            directions = self.directions.index_select(0, chosen)
        else:
            directions = centred(self.knowledge.logits.index_select(0, chosen))
        return directions.view(*positions.shape, -1), present

    def _aggregate_positives(self, rows: Tensor | None = None) -> Tensor:
        query = self.query
        return aggregate_logits(
            self.knowledge.logits,
            self.neighbours,
            query.retrieval_temperature,
            query.aggregate,
            query.temperature,
            rows,
        )

    def _aggregate_class(self) -> Tensor:
        query, knowledge = self.query, self.knowledge
        assert knowledge.features is not None, "a method that retrieves sets `Needs.bank`"
        return aggregate_class_logits(
            knowledge.features.to(knowledge.labels.device),
            knowledge.logits,
            knowledge.labels,
            query.retrieval_temperature,
            query.aggregate,
            query.temperature,
            knowledge.members,
        )

    def _measure_quality(self) -> dict[str, float]:
        """Return quality measures of the bank by name.

        They measure the positives against the given labels, the effect of aggregation on labelled
        samples, and the recall of the index.
        """
        neighbours, knowledge = self.neighbours, self.knowledge
        temperature = self.query.temperature
        quality: dict[str, float] = {}
        if (neighbours.positives != -1).any():
            quality["retrieved_right"] = positive_accuracy(
                knowledge.logits, knowledge.labels, neighbours
            )
        samples = (
            self._entropy_samples() if self.query.positives is not None else knowledge.labels[:0]
        )
        if len(samples):
            quality["target_entropy"] = target_entropy(self.target(samples), temperature)
            quality["own_entropy"] = target_entropy(self.logits(samples), temperature)
        return quality | ({"recall": neighbours.recall} if neighbours.negatives.shape[1] else {})

    def _entropy_samples(self) -> Tensor:
        """Return at most `MAX_ENTROPY_SAMPLES` labelled samples, evenly spaced."""
        labelled = torch.nonzero(self.knowledge.labels != -1).flatten()
        if not len(labelled):
            return labelled
        count = min(len(labelled), MAX_ENTROPY_SAMPLES)
        return labelled[
            torch.linspace(0, len(labelled) - 1, count, device=labelled.device).round().long()
        ]
