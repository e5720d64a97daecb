"""Base of the methods that match feature maps of student and teacher."""

from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from methods import losses
from methods.batch import Batch
from methods.method import Method, Needs, Objective
from methods.settings import SettingsError, Temperature
from methods.standardization import StandardizationSettings


class FeatureSettings(StandardizationSettings):
    """Hyper-parameters of the labels, the teacher's logits and the feature term."""

    beta: float = Field(100.0, description="Weight of the feature term.", ge=0)
    alpha: float = Field(
        0.0,
        description="Weight of the term of the teacher's logits. At 0 the logits are not used.",
        ge=0,
        le=100,
    )
    form: Literal["convex", "additive"] = Field(
        "convex",
        description="Weight of cross entropy. convex: 1 - alpha, with alpha up to 1; additive: 1, "
        "as in published combinations, such as KD with alpha 1.",
    )
    logit_term: Literal["kd", "wttm"] = Field(
        "kd",
        description="Term of the teacher's logits. kd: T^2 D(p_T || q_T); wttm: that of WTTM, "
        "U D(p_T || q) with the power sum U. Used with alpha above 0.",
    )
    temperature: Temperature = Field(
        4.0,
        description="T, the divisor of the logits of teacher and student. Used with alpha above 0.",
    )

    @model_validator(mode="after")
    def _check_alpha(self) -> Self:
        if self.form == "convex" and self.alpha > 1:
            raise SettingsError(
                f"alpha = {self.alpha} is not allowed with form = 'convex', where cross entropy "
                "has the weight 1 - alpha: give at most 1, or choose form = 'additive'",
                "alpha",
                value=self.alpha,
                allowed=(0, 1),
            )
        return self


class FeatureMethod(Method):
    """(1 - alpha) CE + alpha T^2 D(p_T || q_T) + beta F; a subclass defines the feature term F.

    The form additive has the weight 1 on CE. The term of the logits may be that of WTTM.
    """

    settings: FeatureSettings
    needs = Needs(teacher=True)

    def feature_term(self, batch: Batch) -> Tensor:
        """Return F, ()."""
        raise NotImplementedError

    @property
    def learns_from_teacher(self) -> bool:
        """Return whether the logits are used: F does not train the last layer."""
        return self.settings.alpha > 0

    @property
    def beta(self) -> float | Tensor:
        """Return the weight of the feature term in this epoch, a number or a tensor ()."""
        return self.settings.beta

    def forward(self, batch: Batch) -> Objective:
        """Return the objective; track its terms: those of labels, features and logits.

        They are `cross_entropy`, F (`features`) and, with alpha above 0, `distillation`.
        """
        chosen, hard, features = self.settings, batch.cross_entropy(), self.feature_term(batch)
        terms = {"cross_entropy": hard.detach(), "features": features.detach()}
        of_labels = 1 - chosen.alpha if chosen.form == "convex" else 1.0
        loss = of_labels * hard + (self.beta * features).to(hard.dtype)
        if chosen.alpha > 0:
            soft = self._logit_term(batch)
            loss, terms["distillation"] = loss + chosen.alpha * soft, soft.detach()
        return Objective(loss, terms)

    def _logit_term(self, batch: Batch) -> Tensor:
        """Return the mean of the term of the teacher's logits, ()."""
        temperature, scaled = self.settings.temperature, self.settings.scale_logits
        teacher, student = scaled(batch.teacher_logits), scaled(batch.student.logits)
        if self.settings.logit_term == "kd":
            return temperature**2 * losses.tempered_kl(teacher, student, temperature).mean()
        divergence = losses.transformed_teacher_kl(teacher, student, temperature)
        power_sum = losses.log_power_sum(teacher, temperature).exp()
        return (power_sum.to(divergence.dtype) * divergence).mean()


def pool_to_smaller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps (B, C, H, W) averaged to the smaller height and width of the two."""
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    pooled = (
        each if each.shape[2:] == size else functional.adaptive_avg_pool2d(each, size)
        for each in (first, second)
    )
    first, second = pooled
    return first, second
