"""Decoupled knowledge distillation: weight the target class and the other classes separately."""

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from methods import losses
from methods.batch import Batch
from methods.method import Knowledge, Method, Needs, Objective, Progress, Task
from methods.settings import Temperature
from methods.standardization import StandardizationSettings
from methods.warmup import WarmUp


class DKDSettings(StandardizationSettings):
    """Hyper-parameters of DKD; the weight of the cross entropy is 1."""

    alpha: float = Field(
        1.0, description="Weight of TCKD, the divergence between target and other classes.", ge=0
    )
    beta: float = Field(
        8.0, description="Weight of NCKD, the divergence among the other classes.", ge=0
    )
    temperature: Temperature = Field(
        4.0, description="T, the divisor of the logits of teacher and student."
    )
    warmup: float = Field(
        20 / 240,
        description="Share of the epochs over which the weight of the teacher grows linearly: in "
        "epoch e of E it is e / (warmup E), up to 1. The default is 20 of 240 epochs; 0: no "
        "warm-up.",
        ge=0,
        le=1,
    )


class DKD(Method):
    """CE + r T^2 (alpha TCKD + beta NCKD), the mean over the labelled samples.

    p_y is the softened probability of the label. TCKD is the divergence of (p_y, 1 - p_y) from that
    of the student. NCKD is the divergence of the distributions over the other classes. r is the
    warm-up. KD is alpha = 1 with 1 - p_y in place of beta. A blended sample has the mean of its two
    labels' terms, by its shares.
    """

    Settings = DKDSettings
    settings: DKDSettings
    needs = Needs(teacher=True, labels=True)
    provenance = (
        "Zhao, Cui, Song, Qiu & Liang, CVPR 2022 (arXiv 2203.08679); paper, and the released code "
        "for the warm-up; blended samples are an addition; `standardize`: Sun et al., CVPR 2024 "
        "(arXiv 2403.01427), whose code multiplies alpha and beta by its weight"
    )

    def __init__(self, settings: DKDSettings) -> None:
        super().__init__(settings)
        self.warmup = WarmUp(settings.warmup)

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        """Set the warm-up of the first epoch."""
        self.warmup.start(1, task.epochs)

    def forward(self, batch: Batch) -> Objective:
        """Return the objective; track cross entropy, and T^2 TCKD and T^2 NCKD without weights."""
        chosen, scaled = self.settings, self.settings.scale_logits
        teacher, student = scaled(batch.teacher_logits), scaled(batch.student.logits)

        def decouple(labels: Tensor) -> Tensor:
            known = (labels != -1)[:, None]
            parts = losses.decoupled_kl(teacher, student, labels, chosen.temperature)
            return torch.stack(parts, dim=1) * known

        hard = batch.cross_entropy()
        target, others = chosen.temperature**2 * batch.mean_over_labels(decouple)
        soft = self.warmup.factor * (chosen.alpha * target + chosen.beta * others)
        terms = {"cross_entropy": hard, "target": target, "non_target": others}
        return Objective(
            hard + soft.to(hard.dtype), {name: value.detach() for name, value in terms.items()}
        )

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """Advance the warm-up; return the factor of the teacher's terms in the finished epoch."""
        return {"warmup": self.warmup.end_epoch(progress.epoch, progress.epochs)}
