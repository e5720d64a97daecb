"""Transformed teacher matching (TTM) and its sample-weighted form (WTTM).

The temperature softens the teacher only: the released code and the paper's tables give gamma = 1/T.
"""

import math
from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor

from methods import losses
from methods.batch import Batch
from methods.method import Knowledge, Task
from methods.settings import SettingsError, override
from methods.weighted import Form, Soft, TwoFormMethod, TwoFormSettings

# Samples per block of the mean power sum, since memory cannot hold two copies of ImageNet's logits.
_BLOCK = 65_536


class TTMSettings(TwoFormSettings):
    """Hyper-parameters of TTM.

    The soft term is T D in the convex form and D in the additive one. Only the latter uses
    `normalize`.
    """

    form: Form = override(
        TwoFormSettings,
        "form",
        description="Objective. convex: (1 - alpha) CE + alpha T D, which is 1 - alpha times CE + "
        "beta D with beta = alpha T / (1 - alpha); additive: CE + beta D.",
    )
    temperature: float = override(
        TwoFormSettings,
        "temperature",
        description="T, the divisor of the teacher's logits, 1/gamma in the paper's tables. The "
        "student's logits are not divided.",
    )
    beta: float = override(TwoFormSettings, "beta", default=36.0)
    normalize: bool = Field(
        True,
        description="Divide the loss by 1 + beta, so that beta does not change the effective "
        "learning rate; false is the paper's form. Used by the form additive, else ignored.",
    )


class WTTMSettings(TTMSettings):
    """Hyper-parameters of WTTM: those of TTM, and the normalisation of the weights to mean one."""

    mean_power_sum: bool = Field(
        True,
        description="Divide each sample's power sum by its mean over the training part, so that "
        "alpha and beta have the same effect as in TTM; false is equation 23 and the released "
        "code.",
    )


class TTM(TwoFormMethod):
    """Cross entropy and D(p_T || q) with only the teacher softened (equations 2, 18 and 19)."""

    Settings = TTMSettings
    settings: TTMSettings
    provenance = "Zheng & Yang, ICLR 2024 (arXiv 2402.11148); paper and released code"

    def soft(self, batch: Batch) -> Soft:
        """Return D, scaled by T in the convex form; the tracked `distillation` is the mean of D."""
        divergence = losses.transformed_teacher_kl(
            batch.teacher_logits, batch.student.logits, self.settings.temperature
        )  # (B,)
        return Soft(
            divergence,
            divergence,
            {"distillation": divergence.detach().mean()},
            self.settings.temperature,
        )

    def additive(self, hard: Tensor, soft: Tensor) -> Tensor:
        """Return CE + beta D, divided by 1 + beta with `normalize`."""
        total = super().additive(hard, soft)
        return total / (1 + self.settings.beta) if self.settings.normalize else total


class WTTM(TTM):
    """TTM with divergences weighted by the teacher's power sum U_{1/T}(p) (equation 23).

    p is the untempered teacher. With `mean_power_sum` each weight is U over its mean on the clean
    training part: beta_WTTM = beta_TTM / mean U (figure 1).
    """

    Settings = WTTMSettings
    settings: WTTMSettings

    def __init__(self, settings: WTTMSettings) -> None:
        super().__init__(settings)
        self.log_mean: float | None = None if settings.mean_power_sum else 0.0

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        """Prepare alpha; compute the mean power sum of the training part if it is requested.

        Raises:
            SettingsError: `mean_power_sum` is set, and there is no teacher.
        """
        super().prepare(knowledge, task)
        if not self.settings.mean_power_sum:
            return
        if knowledge is None:
            message = (
                "mean_power_sum = True needs the teacher's logits of the training part: "
                "set `teacher`, or mean_power_sum = False"
            )
            raise SettingsError(message, "mean_power_sum", value=True, allowed=(False,))
        self.log_mean = _log_mean_power_sum(knowledge().logits, self.settings.temperature)

    def soft(self, batch: Batch) -> Soft:
        """Return U D, divided by the mean of U with `mean_power_sum`.

        The tracked `distillation` is the mean of D without U, `power_sum` that of U.
        """
        assert self.log_mean is not None, "`prepare` is called before the first step"
        plain = super().soft(batch)
        power_sum = losses.log_power_sum(
            batch.teacher_logits, self.settings.temperature
        )  # (B,) log U
        weight = (power_sum - self.log_mean).exp().to(plain.value.dtype)
        tracked = power_sum.exp().mean().to(plain.value.dtype)
        return plain._replace(
            value=weight * plain.value, terms={**plain.terms, "power_sum": tracked}
        )


def _log_mean_power_sum(logits: Tensor, temperature: float) -> float:
    """Return the logarithm of the mean of U_{1/T}(p) over logits (n, K).

    At T = 0.05 the mean itself may be 1e-57.
    """
    blocks = [
        losses.log_power_sum(block, temperature).logsumexp(dim=0)
        for block in torch.split(logits, _BLOCK)
    ]
    return float(torch.stack(blocks).logsumexp(dim=0)) - math.log(len(logits))
