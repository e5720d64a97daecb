"""Dual students: learn from labels, from a teacher weighted by its certainty, and from peers."""

from collections.abc import Callable
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from methods import losses
from methods.batch import Batch
from methods.histogram import Histogram
from methods.method import Knowledge, Needs, Objective, Progress, Task
from methods.peers import PeerMethod, PeerSettings
from methods.settings import SettingsError, Temperature, override

MIN_MEAN_WEIGHT = 1e-6  # smallest mean weight to divide by: less is float32 rounding


class DualStudentSettings(PeerSettings):
    """Hyper-parameters of dual students.

    If the weights sum to one, the learning rate has the same meaning as in the convex form of KD.
    """

    lambda_ce: float = Field(0.3, description="Weight of the cross entropy.", ge=0)
    lambda_kd: float = Field(0.5, description="Weight of the teacher term.", ge=0)
    lambda_peer: float = override(PeerSettings, "lambda_peer", default=0.2)
    temperature: Temperature = Field(
        4.0, description="T, the divisor of the logits of teacher and student."
    )
    certainty: Literal["certain", "uncertain", "none"] = Field(
        "certain",
        description="w, the weight of a sample in the teacher term. certain: 1 - H/log K, with "
        "the entropy H of the teacher; uncertain: H/log K; none: 1.",
    )
    certainty_temperature: Temperature = Field(
        1.0,
        description="T_w, the divisor of the teacher's logits in the entropy H. At 4 hardly any "
        "teacher is certain.",
    )
    w_norm: Literal["none", "mean1"] = Field(
        "none",
        description="Normalisation of w. mean1: w is divided by its mean over the batch of all "
        "ranks, so that it changes the proportions of the samples and not the strength of the "
        "teacher term; none: w is unchanged.",
    )
    peer_weight: Literal["none", "1-w"] = Field(
        "none",
        description="Weight of a sample in the peer term. 1-w: H/log K for any `certainty`, so "
        "that the student relies on its peers if the teacher is uncertain; none: 1.",
    )
    peer_warmup: float = override(PeerSettings, "peer_warmup", default=0.2)

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.lambda_ce == self.lambda_kd == 0:
            raise SettingsError(
                "lambda_kd = 0.0 is not allowed together with lambda_ce = 0.0, because the "
                "students would learn from neither labels nor teacher: give one of them a "
                "weight above 0",
                "lambda_kd",
                value=self.lambda_kd,
                allowed="above 0",
            )
        return self


class DualStudent(PeerMethod):
    """lambda_ce CE + lambda_kd w T^2 D(p_T || q_T) + lambda_peer u T_p^2 D(q_o || q_s).

    All terms are means over the batch, the last one over the peers o, too. H/log K is the entropy
    of the teacher's p at T_w over its largest value. w = 1 - H/log K = D(p || uniform)/log K. It is
    1 for a certain teacher (plain KD) and 0 for a uniform one. u is 1 or H/log K.
    `standardize` changes both divergences D, and not H.
    """

    Settings = DualStudentSettings
    settings: DualStudentSettings
    needs = Needs(teacher=True)
    provenance = (
        "arXiv 2511.18826 (2025), of which only the abstract and a third party's summary were "
        "available: w = 1 - H/log K is from the summary, the peer term is that of DML (arXiv "
        "1706.00384); temperatures, weights and the rest are reconstructions"
    )

    def __init__(self, settings: DualStudentSettings) -> None:
        super().__init__(settings)
        self.task: Task | None = None
        self.histogram = Histogram()

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        """Store the task, which gives the mean over the ranks."""
        self.task = task

    def forward(self, batch: Batch) -> Objective:
        """Return the objective of one student.

        Tracked are cross entropy, w T^2 D (`distillation`), T_p^2 D (`peer`), and the means of
        H/log K (`uncertainty`) and w (`weight`).
        """
        chosen = self.settings
        hard = batch.cross_entropy()
        uncertainty = losses.normalized_entropy(
            batch.teacher_logits, chosen.certainty_temperature
        )  # (B,)
        self.histogram.count(uncertainty)
        weight = self._weights(uncertainty)
        divergence = losses.tempered_kl(
            chosen.scale_logits(batch.teacher_logits),
            chosen.scale_logits(batch.student.logits),
            chosen.temperature,
        )  # (B,)
        soft = (weight * chosen.temperature**2 * divergence).mean()
        terms = {
            "cross_entropy": hard.detach(),
            "distillation": soft.detach(),
            "uncertainty": uncertainty.mean(),
            "weight": weight.mean(),
        }
        loss = chosen.lambda_ce * hard + chosen.lambda_kd * soft
        return self.add_peer_term(
            batch, loss, terms, uncertainty if chosen.peer_weight == "1-w" else None
        )

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """Advance the warm-up; return the peers' weight, and the distribution of H/log K.

        The distribution is given by the shares (BINS,) of the epoch's samples.
        """
        shares = self.histogram.shares(self._mean)
        return super().end_epoch(progress) | (
            {} if shares is None else {"uncertainty_histogram": shares}
        )

    def _weights(self, uncertainty: Tensor) -> Tensor:
        """Return w, (B,), from H/log K (B,)."""
        if self.settings.certainty == "none":
            return torch.ones_like(uncertainty)
        weight = 1 - uncertainty if self.settings.certainty == "certain" else uncertainty
        if self.settings.w_norm == "mean1":
            return weight / self._mean(weight.mean()).clamp(min=MIN_MEAN_WEIGHT)
        return weight

    def _mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over the ranks."""
        assert self.task is not None, "`prepare` is called before the first step"
        return self.task.mean(values)
