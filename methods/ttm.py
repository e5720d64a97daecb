"""Transformed teacher matching and its sample-weighted form. Knows one batch, and for the weights the mean power sum.

The temperature softens the teacher alone: the released code and the paper's tables give gamma = 1/T.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from methods import losses
from methods.method import Batch, Knowledge, Method, Needs, Objective, Settings, SettingsError, Task, setting

# Samples per block of the mean power sum: ImageNet's logits fit in memory once, not several times.
_BLOCK = 65_536


@dataclass(frozen=True)
class TTMSettings(Settings):
    """Hyper-parameters of TTM. `alpha` counts in the convex form alone, `beta` and `normalize` in the additive one."""

    form: str = setting(
        "convex",
        "convex: (1 - alpha) CE + alpha T D, which is beta = alpha T / (1 - alpha) times 1 - alpha; additive: CE + beta D",
        choices=("convex", "additive"),
    )
    temperature: float = setting(4.0, "T: divides the logits of the teacher alone, 1/gamma of the paper's tables", above=0)
    alpha: float = setting(0.9, "weight of the soft term, cross entropy has the rest (convex form; else ignored)", low=0, high=1)
    beta: float = setting(36.0, "weight of D beside a cross entropy of weight 1 (additive form; else ignored)", low=0)
    normalize: bool = setting(
        True,
        "divide the total by 1 + beta, so that beta leaves the effective learning rate alone; false is the paper's form "
        "(additive form; else ignored)",
    )


@dataclass(frozen=True)
class WTTMSettings(TTMSettings):
    """Hyper-parameters of WTTM: those of TTM, and whether the weights have mean one."""

    mean_power_sum: bool = setting(
        True,
        "divide each sample's power sum by its mean over the training part, so that alpha and beta weigh as in TTM; "
        "false is equation 23 and the released code",
    )


class TTM(Method):
    """Cross entropy and D(p_T || q) with the teacher alone softened (equations 2, 18 and 19)."""

    Settings = TTMSettings
    settings: TTMSettings
    needs = Needs(teacher=True)
    provenance = "Zheng & Yang, ICLR 2024 (arXiv 2402.11148); paper and released code"

    def forward(self, batch: Batch) -> Objective:
        """The weighted sum over the batch; the tracked `distillation` is the mean of D."""
        divergence = self._divergence(batch)  # (B,)
        hard = batch.cross_entropy()
        return Objective(self._total(hard, divergence.mean()), self._terms(hard, divergence))

    def _divergence(self, batch: Batch) -> Tensor:
        return losses.transformed_teacher_kl(batch.teacher_logits, batch.student.logits, self.settings.temperature)

    def _total(self, hard: Tensor, soft: Tensor) -> Tensor:
        """The scalar to minimise from the cross entropy and the mean of the (weighted) divergence, both scalars."""
        chosen = self.settings
        if chosen.form == "convex":
            return (1 - chosen.alpha) * hard + chosen.alpha * chosen.temperature * soft
        total = hard + chosen.beta * soft
        return total / (1 + chosen.beta) if chosen.normalize else total

    def _terms(self, hard: Tensor, divergence: Tensor) -> dict[str, Tensor]:
        return {"cross_entropy": hard.detach(), "distillation": divergence.detach().mean()}


class WTTM(TTM):
    """TTM with each sample's divergence weighted by U_{1/T}(p), the power sum of the untempered teacher (equation 23).

    With `mean_power_sum` the weight is U over its mean on the clean training part: beta_WTTM = beta_TTM / mean U (figure 1).
    """

    Settings = WTTMSettings
    settings: WTTMSettings

    def __init__(self, settings: WTTMSettings) -> None:
        super().__init__(settings)
        self.mean: float | None = None if settings.mean_power_sum else 1.0

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        """The mean power sum of the training part, if asked for; SettingsError when there is no teacher to ask."""
        if not self.settings.mean_power_sum:
            return
        if knowledge is None:
            message = (
                "mean_power_sum = True needs the teacher's logits of the training part: set `teacher`, or mean_power_sum = False"
            )
            raise SettingsError(message, "mean_power_sum")
        self.mean = _mean_power_sum(knowledge().logits, self.settings.temperature)

    def forward(self, batch: Batch) -> Objective:
        """The weighted sum over the batch; the tracked `distillation` is the mean of D without U, `power_sum` that of U."""
        assert self.mean is not None, "prepare comes before the first step"
        divergence = self._divergence(batch)  # (B,)
        power_sum = losses.power_sum(batch.teacher_logits, self.settings.temperature)  # (B,)
        hard = batch.cross_entropy()
        soft = (power_sum / self.mean * divergence).mean()
        return Objective(self._total(hard, soft), {**self._terms(hard, divergence), "power_sum": power_sum.mean()})


def _mean_power_sum(logits: Tensor, temperature: float) -> float:
    """The mean of U_{1/T}(p) over logits (n, K)."""
    blocks = [losses.power_sum(block, temperature).double().sum() for block in torch.split(logits, _BLOCK)]
    return float(torch.stack(blocks).sum() / len(logits))
