"""Hinton's knowledge distillation: labels, and the teacher's softened distribution. Knows one batch at a time."""

from dataclasses import dataclass

from methods import losses
from methods.method import Batch, Method, Needs, Objective, Settings, setting


@dataclass(frozen=True)
class KDSettings(Settings):
    """Hyper-parameters of KD. `alpha` counts in the convex form alone and `beta` in the additive one; the other is ignored."""

    form: str = setting(
        "convex",
        "convex: (1 - alpha) CE + alpha T^2 D; additive: CE + beta T^2 D, whose gradient grows with beta",
        choices=("convex", "additive"),
    )
    temperature: float = setting(4.0, "T: divides the logits of teacher and student", above=0)
    alpha: float = setting(0.9, "weight of the soft term, cross entropy has the rest (convex form; else ignored)", low=0, high=1)
    beta: float = setting(9.0, "weight of the soft term beside a cross entropy of weight 1 (additive form; else ignored)", low=0)


class KD(Method):
    """Cross entropy and T^2 D(p_T || q_T). The additive form at beta = alpha / (1 - alpha) is the convex one over 1 - alpha."""

    Settings = KDSettings
    settings: KDSettings
    needs = Needs(teacher=True)
    provenance = "Hinton, Vinyals & Dean 2015 (arXiv 1503.02531)"

    def forward(self, batch: Batch) -> Objective:
        """The weighted sum over the batch; the tracked `distillation` contains T^2."""
        temperature = self.settings.temperature
        divergence = losses.tempered_kl(batch.teacher_logits, batch.student.logits, temperature)  # (B,)
        soft = temperature**2 * divergence.mean()
        hard = batch.cross_entropy()
        if self.settings.form == "convex":
            loss = (1 - self.settings.alpha) * hard + self.settings.alpha * soft
        else:
            loss = hard + self.settings.beta * soft
        return Objective(loss, {"cross_entropy": hard.detach(), "distillation": soft.detach()})
