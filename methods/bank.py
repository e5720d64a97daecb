"""A memory bank that is in force: what it says of each training sample and of those that were retrieved for it.

Knows knowledge and retrieval; not who filled it, nor what is minimised.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from methods.aggregation import How, aggregated, class_aggregated, rightly_retrieved, target_entropy
from methods.contrast import centred
from methods.method import Knowledge
from methods.retrieval import Neighbours

TABLE_BYTES = 2**31  # what one table of (n, K) may take that is computed once; a larger one is looked up batch by batch
LOOKED_AT = 16_384  # samples whose entropies are tracked, at most


@dataclass(frozen=True)
class BankQuery:
    """What is looked up: so many `positives`, of which a target is made (None: no target; 0: the whole class), and `negatives`.

    A target is the mean over the positives with the weights softmax(similarity / retrieval_temperature): of their logits
    (`logit`), or of their distributions at `temperature` (`prob`).
    """

    positives: int | None
    negatives: int
    retrieval_temperature: float
    aggregate: How
    temperature: float


class Bank:
    """Made once from the knowledge of n samples, on its device, without a gradient. `neighbours` are what was retrieved."""

    @torch.no_grad()
    def __init__(self, knowledge: Knowledge, looking: BankQuery) -> None:
        self.knowledge, self.looking = knowledge, looking
        self.neighbours: Neighbours = knowledge.neighbours(looking.positives or 0, looking.negatives)
        logits = knowledge.logits
        fits = logits.numel() * 4 <= TABLE_BYTES
        self.targets = None if looking.positives is None else self._whole_class() if looking.positives == 0 else None
        if looking.positives and fits:
            self.targets = self._of_positives()
        self.directions = centred(logits) if looking.negatives and fits else None
        self.numbers = self._numbers()

    def logits(self, index: Tensor) -> Tensor:
        """What the bank says of the samples themselves, (B, K)."""
        return self.knowledge.logits.index_select(0, index)

    def target(self, index: Tensor) -> Tensor:
        """What it says of their positives: logits (B, K), at `temperature` the target; the samples' own where there are none."""
        return self._of_positives(index) if self.targets is None else self.targets.index_select(0, index)

    def negatives(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Directions (B, N, K) of the samples' negatives, and which of them are there, (B, N)."""
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
        return aggregated(logits, found, chosen.retrieval_temperature, chosen.aggregate, chosen.temperature, rows)

    def _whole_class(self) -> Tensor:
        chosen, known = self.looking, self.knowledge
        assert known.features is not None, "who retrieves says so by `Needs.bank`"
        features = known.features.to(known.labels.device)
        tau, how = chosen.retrieval_temperature, chosen.aggregate
        return class_aggregated(features, known.logits, known.labels, tau, how, chosen.temperature, known.members)

    def _numbers(self) -> dict[str, float]:
        """How good the positives are by the labels as given; what aggregation does to labelled samples; what an index missed."""
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
        """Samples with a label, evenly spaced, at most `LOOKED_AT` of them."""
        labelled = torch.nonzero(self.knowledge.labels != -1).flatten()
        if not len(labelled):
            return labelled
        count = min(len(labelled), LOOKED_AT)
        return labelled[torch.linspace(0, len(labelled) - 1, count, device=labelled.device).round().long()]
