"""Hinton's knowledge distillation from labels and the teacher's softened distribution."""

from methods import losses
from methods.batch import Batch
from methods.weighted import Soft, TwoFormMethod, TwoFormSettings


class KDSettings(TwoFormSettings):
    """Hyper-parameters of KD; the soft term is T^2 D."""


class KD(TwoFormMethod):
    """Cross entropy and T^2 D(p_T || q_T).

    The additive form at beta = alpha / (1 - alpha) is the convex one divided by 1 - alpha.
    """

    Settings = KDSettings
    settings: KDSettings
    provenance = "Hinton, Vinyals & Dean 2015 (arXiv 1503.02531)"

    def soft(self, batch: Batch) -> Soft:
        """Return T^2 D; the tracked `distillation` contains T^2."""
        temperature = self.settings.temperature
        divergence = losses.tempered_kl(
            batch.teacher_logits, batch.student.logits, temperature
        )  # (B,)
        value = temperature**2 * divergence
        return Soft(value, divergence, {"distillation": value.detach().mean()})
