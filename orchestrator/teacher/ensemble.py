"""Average the logits of several teachers, with a weight for each teacher or for each sample.

An average of logits is a logarithmic opinion pool: its softmax is the normalised weighted geometric
mean of the teachers' distributions. At a temperature T it is the pool of their distributions at T.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from methods import Mix, Output, losses
from orchestrator.config.ensemble_schema import Ensemble
from orchestrator.data.passes import Inputs
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.teacher.outputs import CachedTeacher, OnlineTeacher

BLOCK_SAMPLES = 16_384  # of tables that are averaged together


def confidence_weights(scores: Tensor) -> Tensor:
    """Return w_m = (1 - softmax(scores)_m) / (M - 1), (M, B), from scores (M, B) of M teachers.

    A lower score gives a higher weight, at most 1 / (M - 1). Source: CA-MKD, with the cross entropy
    with the label as score (Zhang et al., ICASSP 2022, arXiv 2201.00007).
    """
    return (1 - scores.softmax(dim=0)) / (len(scores) - 1)


class TeacherWeights:
    """Weights of several teachers.

    `confidence` has the cross entropy with the label as score. The part of a sample without a label
    is scored by the entropy of the teacher, which is the expected cross entropy under the teacher's
    own distribution. `entropy` has the entropy as score for all samples. That a lower entropy gives
    a higher weight is the idea of Kwon et al. (ICASSP 2020).

    Args:
        settings: The kind of the weights.
        count: M, teachers.
        device: The device of the logits.

    Attributes:
        logits: (M,) float32; their softmax are the weights of `fixed` and `learned`.
    """

    def __init__(self, settings: Ensemble, count: int, device: torch.device) -> None:
        self.kind, self.temperature = settings.weights, settings.temperature
        fixed = torch.tensor(settings.fixed or (1.0,) * count, device=device)
        self.logits = fixed.log()

    def compute(
        self, logits: Tensor, labels: Tensor | None = None, mix: Mix | None = None
    ) -> Tensor:
        """Return the weights, (M, B), or (M, 1) if they do not depend on the sample.

        Args:
            logits: (M, B, K) logits.
            labels: (B,) labels, -1 for unlabelled samples; None if no label may be used.
            mix: The partners of blended samples.
        """
        if self.kind in ("fixed", "learned"):
            return self.logits.softmax(dim=0)[:, None]
        labels = labels if self.kind == "confidence" else None
        return confidence_weights(
            torch.stack([self._score(each / self.temperature, labels, mix) for each in logits])
        )

    def _score(self, logits: Tensor, labels: Tensor | None, mix: Mix | None) -> Tensor:
        """Return the uncertainty of a teacher about each sample, (B,) in nats."""
        log_p = losses.log_softmax(logits)
        entropy = -(log_p.exp() * log_p).sum(dim=1)
        if labels is None:
            return entropy
        partners = mix or ()
        known = losses.labelled_shares(labels, *partners)
        return losses.cross_entropies(logits, labels, 0.0, *partners) + (1 - known) * entropy


class FrozenEnsemble:
    """Several frozen teachers, whose logits are averaged.

    Attributes:
        teachers: The teachers.
        weights: Their weights.
        network: None: there is no single network, and so neither features nor feature maps.
    """

    network = None

    def __init__(self, teachers: Sequence[FrozenTeacher], settings: Ensemble) -> None:
        self.teachers = list(teachers)
        device = next(self.teachers[0].network.parameters()).device
        self.weights = TeacherWeights(settings, len(self.teachers), device)

    def __call__(self, inputs: Tensor) -> Output:
        """Return the logits (B, K) on inputs without labels, and features (B, 0)."""
        return self.average([teacher(inputs).logits for teacher in self.teachers])[0]

    def average(
        self, logits: Sequence[Tensor], labels: Tensor | None = None, mix: Mix | None = None
    ) -> tuple[Output, Tensor]:
        """Return the averaged logits (B, K) with features (B, 0), and the weights.

        Args:
            logits: Logits (B, K) of each teacher.
            labels: (B,) labels; None if no label may be used.
            mix: The partners of blended samples.
        """
        stacked = torch.stack(list(logits))
        weights = self.weights.compute(stacked, labels, mix)
        averaged = (weights[:, :, None] * stacked).sum(dim=0)
        return Output(averaged, averaged.new_empty(len(averaged), 0)), weights

    def average_tables(self, tables: Sequence[Tensor], labels: Tensor | None) -> Tensor:
        """Return the averaged logits (n, K) of whole parts, computed in blocks.

        Args:
            tables: Logits (n, K) of each teacher.
            labels: (n,) labels on the device of the teachers; None if no label may be used.
        """
        device, blocks = self.weights.logits.device, []
        for start in range(0, len(tables[0]), BLOCK_SAMPLES):
            rows = slice(start, start + BLOCK_SAMPLES)
            known = None if labels is None else labels[rows]
            output, _ = self.average([table[rows].to(device) for table in tables], known)
            blocks.append(output.logits)
        return torch.cat(blocks)


AnyTeacher = FrozenTeacher | FrozenEnsemble


class EnsembleOutputs:
    """Source of the averaged outputs of several teachers; each has its own cache, or none.

    The average is computed for each batch and never cached.

    Args:
        ensemble: The teachers.
        sources: The source of each teacher's outputs.
    """

    def __init__(
        self, ensemble: FrozenEnsemble, sources: Sequence[OnlineTeacher | CachedTeacher]
    ) -> None:
        self.ensemble, self.sources = ensemble, list(sources)
        self.weight_sums = torch.zeros_like(ensemble.weights.logits)  # over steps, of means
        self.steps = 0

    def open_view(self, view: int | None, features: bool = False, maps: bool = False) -> None:
        """Open a view of every source; all ranks call this together."""
        assert not (features or maps), "methods that use these are refused for several teachers"
        for source in self.sources:
            source.open_view(view)

    def answer(self, batch: Inputs) -> Output:
        """Return the averaged logits (B, K) on the open view, and features (B, 0)."""
        logits = [source.answer(batch).logits for source in self.sources]
        output, weights = self.ensemble.average(logits, batch.labels, batch.mix)
        self.weight_sums += weights.mean(dim=1)
        self.steps += 1
        return output

    def take_mean_weights(self) -> Tensor:
        """Return the mean weight of each teacher over the batches since the last call, (M,)."""
        means = self.weight_sums / max(self.steps, 1)
        self.weight_sums, self.steps = torch.zeros_like(means), 0
        return means

    def counts(self) -> dict[str, float]:
        """Return the cache hits and misses since the last call, in views of all teachers."""
        counted: Counter[str] = Counter()
        for source in self.sources:
            counted.update({name: int(value) for name, value in source.counts().items()})
        return {name: float(value) for name, value in counted.items()}

    def notes(self) -> list[str]:
        """Return the messages for users since the last call."""
        return list(dict.fromkeys(note for source in self.sources for note in source.notes()))
