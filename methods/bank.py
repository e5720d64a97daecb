"""Memory bank: entries and retrieval targets of the training samples."""

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.aggregation import How, aggregated, class_aggregated, rightly_retrieved, target_entropy
from methods.contrastive import centred
from methods.method import Knowledge
from methods.retrieval import Neighbours

TABLE_BYTES = 2**31  # limit of a precomputed (n, K) table; a larger one is computed per batch
LOOKED_AT = 16_384  # maximal number of samples whose entropies are tracked


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
    aggregate: How
    temperature: float


class Bank:
    """Bank built once from the knowledge of n samples, on its device and without gradients.

    `neighbours` holds the retrieved samples.
    """

    @torch.no_grad()
    def __init__(self, knowledge: Knowledge, looking: BankQuery) -> None:
        self.knowledge, self.looking = knowledge, looking
        self.neighbours: Neighbours = knowledge.neighbours(
            looking.positives or 0, looking.negatives
        )
        logits = knowledge.logits
        fits = logits.numel() * 4 <= TABLE_BYTES
        self.targets = (
            None
            if looking.positives is None
            else self._whole_class()
            if looking.positives == 0
            else None
        )
        if looking.positives and fits:
            self.targets = self._of_positives()
        self.directions = centred(logits) if looking.negatives and fits else None
        self.numbers = self._numbers()

    def logits(self, index: Tensor) -> Tensor:
        """Return the bank's logits of the samples themselves, (B, K)."""
        return self.knowledge.logits.index_select(0, index)

    def target(self, index: Tensor) -> Tensor:
        """Return target logits (B, K) from the samples' positives, to soften at `temperature`.

        A sample without positives has its own logits.
        """
        return (
            self._of_positives(index)
            if self.targets is None
            else self.targets.index_select(0, index)
        )

    def negatives(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the directions (B, N, K) of the samples' negatives and their mask (B, N).

        The mask is true for negatives that exist.
        """
        positions = self.neighbours.negatives.index_select(0, index)  # (B, N)
        present = positions >= 0
        chosen = positions.clamp(min=0).flatten()
        if self.directions is not None:
            found = self.directions.index_select(0, chosen)
        else:
            found = centred(self.knowledge.logits.index_select(0, chosen))
        return found.view(*positions.shape, -1), present

    def _of_positives(self, rows: Tensor | None = None) -> Tensor:
        chosen = self.looking
        logits, found = self.knowledge.logits, self.neighbours
        return aggregated(
            logits, found, chosen.retrieval_temperature, chosen.aggregate, chosen.temperature, rows
        )

    def _whole_class(self) -> Tensor:
        chosen, known = self.looking, self.knowledge
        assert known.features is not None, "who retrieves says so by `Needs.bank`"
        features = known.features.to(known.labels.device)
        tau, how = chosen.retrieval_temperature, chosen.aggregate
        return class_aggregated(
            features, known.logits, known.labels, tau, how, chosen.temperature, known.members
        )

    def _numbers(self) -> dict[str, float]:
        """Return quality measures of the bank by name.

        They measure the positives against the given labels, the effect of aggregation on labelled
        samples, and the recall of the index.
        """
        found, known, temperature = self.neighbours, self.knowledge, self.looking.temperature
        numbers: dict[str, float] = {}
        if (found.positives != -1).any():
            numbers["retrieved_right"] = rightly_retrieved(known.logits, known.labels, found)
        some = self._looked_at() if self.looking.positives is not None else known.labels[:0]
        if len(some):
            numbers["target_entropy"] = target_entropy(self.target(some), temperature)
            numbers["own_entropy"] = target_entropy(self.logits(some), temperature)
        return numbers | ({"recall": found.recall} if found.negatives.shape[1] else {})

    def _looked_at(self) -> Tensor:
        """Return at most `LOOKED_AT` labelled samples, evenly spaced."""
        labelled = torch.nonzero(self.knowledge.labels != -1).flatten()
        if not len(labelled):
            return labelled
        count = min(len(labelled), LOOKED_AT)
        return labelled[
            torch.linspace(0, len(labelled) - 1, count, device=labelled.device).round().long()
        ]
