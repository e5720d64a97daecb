"""Alpha as a formula of the gap between student and teacher, per batch, sample or epoch.

Nothing is trained. The formulas are reconstructions of "a formula that reflects the student-teacher
gap" (arXiv 2509.05319), whose equations were not available.
"""

import math

import torch
from torch import Tensor

from methods.alpha import Alpha, AlphaSettings, Terms, follow
from methods.batch import Batch
from methods.method import Progress


class Gap(Alpha):
    """Formula of the gap between student and teacher, without a gradient."""

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__(settings)
        self.register_buffer("smoothed", torch.tensor(math.nan))
        self.smoothed: Tensor

    @torch.no_grad()
    def of(self, batch: Batch, terms: Terms) -> Tensor:
        """Return clamped alpha: () for a batch, smoothed over the steps, or (B,) for samples."""
        alpha = self.formula(batch, terms)
        if not alpha.ndim:
            alpha = follow(self.smoothed, alpha, self.settings.alpha_ema).clone()
        return self.clamped(alpha)

    def formula(self, batch: Batch, terms: Terms) -> Tensor:
        """Return alpha before smoothing and clamping."""
        raise NotImplementedError

    def _between(self, share: Tensor) -> Tensor:
        """Interpolate linearly from `alpha_min` at 0 to `alpha_max` at 1."""
        return self.settings.alpha_min + (self.settings.alpha_max - self.settings.alpha_min) * share


class Ratio(Gap):
    """soft / (soft + CE) of the global batch: the larger term gets the larger weight.

    The value is 0 if both terms are 0.
    """

    def formula(self, batch: Batch, terms: Terms) -> Tensor:
        """Return the ratio, ()."""
        terms_of_all = self.mean(torch.stack([terms.hard, terms.soft.mean()]))
        return terms_of_all[1] / terms_of_all.sum().clamp(min=torch.finfo(terms_of_all.dtype).tiny)


class Divergence(Gap):
    """1 - exp(-D / scale) between the bounds of the clamp, per global batch or per sample."""

    def formula(self, batch: Batch, terms: Terms) -> Tensor:
        """Return alpha, () for the batch or (B,) for samples."""
        divergence = (
            terms.divergence
            if self.settings.alpha_per_sample
            else self.mean(terms.divergence.mean())
        )
        return self._between(-torch.expm1(-divergence / self.settings.alpha_scale))


class Label(Gap):
    """sigmoid(kappa (p[y] - q[y])) between the bounds of the clamp, per sample.

    A teacher that is wrong gets little weight. A blended sample uses the differences of both
    labels, weighted by their shares. An unlabelled sample gets the middle.
    """

    def formula(self, batch: Batch, terms: Terms) -> Tensor:
        """Return alpha per sample, (B,)."""
        teacher, student = (
            batch.teacher_logits.float().softmax(dim=1),
            batch.student.logits.float().softmax(dim=1),
        )
        ahead = _at(teacher - student, batch.labels)
        if batch.mix is not None:
            ahead = batch.mix.share * ahead + (1 - batch.mix.share) * _at(
                teacher - student, batch.mix.labels
            )
        return self._between((self.settings.alpha_slope * ahead).sigmoid())


class Accuracy(Gap):
    """sigmoid(kappa (teacher's - student's training accuracy)) of the last epoch.

    The first epoch uses 0.5.
    """

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__(settings)
        self.register_buffer("value", torch.tensor(0.5))
        self.value: Tensor
        self.right: Tensor | None = None  # no buffer: DDP would broadcast that of rank 0

    @torch.no_grad()
    def of(self, batch: Batch, terms: Terms) -> Tensor:
        """Return clamped alpha, (), without smoothing, as it is already a mean over an epoch."""
        return self.clamped(self.formula(batch, terms))

    def formula(self, batch: Batch, terms: Terms) -> Tensor:
        """Return the epoch's alpha, (); count correct predictions for the next epoch."""
        logits = (batch.teacher_logits, batch.student.logits)
        counts = [
            batch.labelled * len(batch.labels),
            *(_right(each.argmax(dim=1), batch) for each in logits),
        ]
        right = torch.stack([count.float() for count in counts])
        self.right = right if self.right is None else self.right + right
        return self.value

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """Compute alpha of the next epoch; keep it after a resume, since nothing was counted."""
        if self.right is not None:
            count, teacher, student = self.mean(self.right)
            self.value.copy_(
                (self.settings.alpha_slope * (teacher - student) / count.clamp(min=1)).sigmoid()
            )
            self.right = None
        return {}


def _right(predicted: Tensor, batch: Batch) -> Tensor:
    """Return the number of correct predictions (B,), (); blended labels count by their shares."""
    right = (predicted == batch.labels).float()
    if batch.mix is not None:
        right = batch.mix.share * right + (1 - batch.mix.share) * (predicted == batch.mix.labels)
    return right.sum()


def _at(values: Tensor, labels: Tensor) -> Tensor:
    """Return values[y], (B,), of values (B, K); 0 for unlabelled samples."""
    return values.gather(1, labels.clamp(min=0)[:, None])[:, 0] * (labels != -1)


GAPS: dict[str, type[Alpha]] = {"ratio": Ratio, "kl": Divergence, "label": Label, "acc": Accuracy}
