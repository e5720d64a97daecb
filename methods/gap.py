"""Alpha as a formula of the gap between student and teacher, per batch, sample or epoch.

Nothing is trained. The formulas are reconstructions of "a formula that reflects the student-teacher
gap" (arXiv 2509.05319), whose equations were not available.
"""

import math

import torch
from torch import Tensor

from methods.alpha import Alpha, AlphaSettings, Terms, update_running_mean
from methods.batch import Batch
from methods.method import Progress


class Gap(Alpha):
    """Formula of the gap between student and teacher, without a gradient."""

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__(settings)
        self.register_buffer("smoothed", torch.tensor(math.nan))
        self.smoothed: Tensor

    @torch.no_grad()
    def compute(self, batch: Batch, terms: Terms) -> Tensor:
        """Return clamped alpha: () for a batch, smoothed over the steps, or (B,) for samples."""
        alpha = self.formula(batch, terms)
        if not alpha.ndim:
            alpha = update_running_mean(self.smoothed, alpha, self.settings.alpha_ema)
        return self.clamp_alpha(alpha)

    def formula(self, batch: Batch, terms: Terms) -> Tensor:
        """Return alpha before smoothing and clamping."""
        raise NotImplementedError

    def _interpolate(self, share: Tensor) -> Tensor:
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
        if self.settings.alpha_per_sample:
            divergence = terms.divergence
        else:
            divergence = self.mean(terms.divergence.mean())
        return self._interpolate(-torch.expm1(-divergence / self.settings.alpha_scale))


class Label(Gap):
    """sigmoid(kappa (p[y] - q[y])) between the bounds of the clamp, per sample.

    A teacher that is wrong gets little weight. A blended sample uses the differences of both
    labels, weighted by their shares. An unlabelled sample gets the middle.
    """

    def formula(self, batch: Batch, terms: Terms) -> Tensor:
        """Return alpha per sample, (B,)."""
        teacher = batch.teacher_logits.float().softmax(dim=1)
        student = batch.student.logits.float().softmax(dim=1)
        difference = _value_at_label(teacher - student, batch.labels)
        if batch.mix is not None:
            difference = batch.mix.share * difference + (1 - batch.mix.share) * _value_at_label(
                teacher - student, batch.mix.labels
            )
        return self._interpolate((self.settings.alpha_slope * difference).sigmoid())


class Accuracy(Gap):
    """sigmoid(kappa (teacher's - student's training accuracy)) of the last epoch.

    The first epoch uses 0.5.
    """

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__(settings)
        self.register_buffer("value", torch.tensor(0.5))
        self.value: Tensor
        self.correct: Tensor | None = None  # no buffer: DDP would broadcast that of rank 0

    @torch.no_grad()
    def compute(self, batch: Batch, terms: Terms) -> Tensor:
        """Return clamped alpha, (), without smoothing, as it is already a mean over an epoch."""
        return self.clamp_alpha(self.formula(batch, terms))

    def formula(self, batch: Batch, terms: Terms) -> Tensor:
        """Return the epoch's alpha, (); count correct predictions for the next epoch."""
        logits = (batch.teacher_logits, batch.student.logits)
        counts = [
            batch.labelled * len(batch.labels),
            *(_count_correct(each.argmax(dim=1), batch) for each in logits),
        ]
        correct = torch.stack([count.float() for count in counts])
        self.correct = correct if self.correct is None else self.correct + correct
        return self.value

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """Compute alpha of the next epoch; keep it after a resume, since nothing was counted."""
        if self.correct is not None:
            count, teacher, student = self.mean(self.correct)
            self.value.copy_(
                (self.settings.alpha_slope * (teacher - student) / count.clamp(min=1)).sigmoid()
            )
            self.correct = None
        return {}


def _count_correct(predicted: Tensor, batch: Batch) -> Tensor:
    """Return the number of correct predictions (B,), (); blended labels count by their shares."""
    correct = (predicted == batch.labels).float()
    if batch.mix is not None:
        correct = batch.mix.share * correct + (1 - batch.mix.share) * (
            predicted == batch.mix.labels
        )
    return correct.sum()


def _value_at_label(values: Tensor, labels: Tensor) -> Tensor:
    """Return values[y], (B,), of values (B, K); 0 for unlabelled samples."""
    return values.gather(1, labels.clamp(min=0)[:, None])[:, 0] * (labels != -1)


GAPS: dict[str, type[Alpha]] = {"ratio": Ratio, "kl": Divergence, "label": Label, "acc": Accuracy}
