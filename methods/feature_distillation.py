"""Base of the methods that match feature maps of student and teacher."""

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from methods import losses
from methods.batch import Batch
from methods.method import Method, Needs, Objective
from methods.settings import Temperature
from methods.standardization import StandardizationSettings


class FeatureSettings(StandardizationSettings):
    """Hyper-parameters of the labels, the teacher's logits and the feature term."""

    beta: float = Field(100.0, description="Weight of the feature term.", ge=0)
    alpha: float = Field(
        0.0,
        description="Weight of the teacher's logits, T^2 D; cross entropy has the weight "
        "1 - alpha. At 0 the logits are not used.",
        ge=0,
        le=1,
    )
    temperature: Temperature = Field(
        4.0,
        description="T, the divisor of the logits of teacher and student. Used with alpha above 0.",
    )


class FeatureMethod(Method):
    """(1 - alpha) CE + alpha T^2 D(p_T || q_T) + beta F; a subclass defines the feature term F."""

    settings: FeatureSettings
    needs = Needs(teacher=True)

    def feature_term(self, batch: Batch) -> Tensor:
        """Return F, ()."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Objective:
        """Return the objective; track cross entropy, T^2 D (`distillation`) and F (`features`)."""
        chosen, hard, features = self.settings, batch.cross_entropy(), self.feature_term(batch)
        terms = {"cross_entropy": hard.detach(), "features": features.detach()}
        loss = (1 - chosen.alpha) * hard + chosen.beta * features
        if chosen.alpha > 0:
            temperature, scaled = chosen.temperature, chosen.scale_logits
            logits = scaled(batch.teacher_logits), scaled(batch.student.logits)
            soft = temperature**2 * losses.tempered_kl(*logits, temperature).mean()
            loss, terms["distillation"] = loss + chosen.alpha * soft, soft.detach()
        return Objective(loss, terms)


def pool_to_smaller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return both maps (B, C, H, W) averaged to the smaller height and width of the two."""
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    pooled = (
        each if each.shape[2:] == size else functional.adaptive_avg_pool2d(each, size)
        for each in (first, second)
    )
    first, second = pooled
    return first, second
