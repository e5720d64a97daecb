"""Alpha from a formula of the gap between student and teacher, of the batch, the sample or the epoch; nothing is trained.

Reconstructions of "a formula that reflects the student-teacher gap" (arXiv 2509.05319), whose equations were not at hand.
"""

import math

import torch
from torch import Tensor

from methods.alpha import Alpha, AlphaSettings, Terms, follow
from methods.batch import Batch
from methods.method import Progress


class Gap(Alpha):
    """A formula of the gap between student and teacher; no gradient goes through it."""

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__(settings)
        self.register_buffer("smoothed", torch.tensor(math.nan))
        self.smoothed: Tensor

    @torch.no_grad()
    def of(self, batch: Batch, terms: Terms) -> Tensor:
        """() for a batch, smoothed over the steps; (B,) for samples."""
        alpha = self.formula(batch, terms)
        if not alpha.ndim:
            alpha = follow(self.smoothed, alpha, self.settings.alpha_ema).clone()
        return self.clamped(alpha)

    def formula(self, batch: Batch, terms: Terms) -> Tensor:
        """Alpha before it is smoothed and clamped."""
        raise NotImplementedError

    def _between(self, share: Tensor) -> Tensor:
        """From `alpha_min` at 0 to `alpha_max` at 1."""
        return self.settings.alpha_min + (self.settings.alpha_max - self.settings.alpha_min) * share


class Ratio(Gap):
    """soft / (soft + CE) of the batch of all ranks: the larger term gets the larger weight; 0 where both are."""

    def formula(self, batch: Batch, terms: Terms) -> Tensor:
        """()."""
        terms_of_all = self.mean(torch.stack([terms.hard, terms.soft.mean()]))
        return terms_of_all[1] / terms_of_all.sum().clamp(min=torch.finfo(terms_of_all.dtype).tiny)


class Divergence(Gap):
    """1 - exp(-D / scale) between the clamp's bounds, of the batch of all ranks or of each sample."""

    def formula(self, batch: Batch, terms: Terms) -> Tensor:
        """() or (B,)."""
        divergence = terms.divergence if self.settings.alpha_per_sample else self.mean(terms.divergence.mean())
        return self._between(-torch.expm1(-divergence / self.settings.alpha_scale))


class Label(Gap):
    """sigmoid(kappa (p[y] - q[y])) between the clamp's bounds, per sample: a teacher that is wrong gets little weight.

    Blended samples have the difference of both labels by their shares; unlabelled ones the middle.
    """

    def formula(self, batch: Batch, terms: Terms) -> Tensor:
        """(B,)."""
        teacher, student = batch.teacher_logits.float().softmax(dim=1), batch.student.logits.float().softmax(dim=1)
        ahead = _at(teacher - student, batch.labels)
        if batch.mix is not None:
            ahead = batch.mix.share * ahead + (1 - batch.mix.share) * _at(teacher - student, batch.mix.labels)
        return self._between((self.settings.alpha_slope * ahead).sigmoid())


class Accuracy(Gap):
    """sigmoid(kappa (teacher's - student's training accuracy)) of the last epoch, the middle in the first one."""

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__(settings)
        self.register_buffer("value", torch.tensor(0.5))
        self.value: Tensor
        self.right: Tensor | None = None  # not a buffer: DDP would give every rank that of the first one

    @torch.no_grad()
    def of(self, batch: Batch, terms: Terms) -> Tensor:
        """(), not smoothed: it is a mean over an epoch already."""
        return self.clamped(self.formula(batch, terms))

    def formula(self, batch: Batch, terms: Terms) -> Tensor:
        """(), the same all epoch long; counts who is right for the next one."""
        logits = (batch.teacher_logits, batch.student.logits)
        counts = [batch.labelled * len(batch.labels), *(_right(each.argmax(dim=1), batch) for each in logits)]
        right = torch.stack([count.float() for count in counts])
        self.right = right if self.right is None else self.right + right
        return self.value

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """On to the next epoch; after a resume nothing was counted, and alpha stays."""
        if self.right is not None:
            count, teacher, student = self.mean(self.right)
            self.value.copy_((self.settings.alpha_slope * (teacher - student) / count.clamp(min=1)).sigmoid())
            self.right = None
        return {}


def _right(predicted: Tensor, batch: Batch) -> Tensor:
    """How many of the predicted classes (B,) are the labels, (); those of blended samples count by their shares."""
    right = (predicted == batch.labels).float()
    if batch.mix is not None:
        right = batch.mix.share * right + (1 - batch.mix.share) * (predicted == batch.mix.labels)
    return right.sum()


def _at(values: Tensor, labels: Tensor) -> Tensor:
    """values[y] of (B, K), (B,); 0 where unlabelled."""
    return values.gather(1, labels.clamp(min=0)[:, None])[:, 0] * (labels != -1)


GAPS: dict[str, type[Alpha]] = {"ratio": Ratio, "kl": Divergence, "label": Label, "acc": Accuracy}
