"""Hinton's knowledge distillation from labels and the teacher's softened distribution."""

from pydantic import Field
from torch import Tensor

from methods import losses
from methods.batch import Batch
from methods.settings import override
from methods.standardization import StandardizationSettings
from methods.weighted import Form, Soft, TwoFormMethod, TwoFormSettings


class KDSettings(TwoFormSettings, StandardizationSettings):
    """Hyper-parameters of KD; the soft term is T^2 D."""

    form: Form = override(
        TwoFormSettings,
        "form",
        description="Objective. convex: (1 - alpha) CE + alpha T^2 D; additive: lambda_ce CE + "
        "beta T^2 D, with a gradient that grows with beta.",
    )
    lambda_ce: float = Field(
        1.0,
        description="Weight of the cross entropy. Used by the form additive, else ignored.",
        ge=0,
    )


class KD(TwoFormMethod):
    """Cross entropy and T^2 D(p_T || q_T).

    The additive form at beta = alpha / (1 - alpha) is the convex one divided by 1 - alpha. With
    `standardize` p_T and q_T are those of the z-scores of the logits.
    """

    Settings = KDSettings
    settings: KDSettings
    provenance = (
        "Hinton, Vinyals & Dean 2015 (arXiv 1503.02531); `standardize`: Sun et al., CVPR 2024 "
        "(arXiv 2403.01427), paper and released code"
    )

    def soft(self, batch: Batch) -> Soft:
        """Return T^2 D; the tracked `distillation` contains T^2."""
        temperature, scaled = self.settings.temperature, self.settings.scale_logits
        divergence = losses.tempered_kl(
            scaled(batch.teacher_logits), scaled(batch.student.logits), temperature
        )  # (B,)
        value = temperature**2 * divergence
        return Soft(value, divergence, {"distillation": value.detach().mean()})

    def additive(self, hard: Tensor, soft: Tensor) -> Tensor:
        """Return lambda_ce CE + beta soft from both means."""
        return super().additive(self.settings.lambda_ce * hard, soft)
