"""Teacher-free distillation from a virtual teacher that is right about every label."""

import math
from typing import Literal

from pydantic import Field
from torch import Tensor

from methods import losses
from methods.batch import Batch
from methods.method import Method, Needs, Objective
from methods.settings import Positive, Settings, Temperature


class TfKDSettings(Settings):
    """Hyper-parameters of Tf-KD.

    The paper's regularisation uses `correct` of 0.9 and more, and T of 20 and more.
    """

    form: Literal["paper", "released"] = Field(
        "paper",
        description="Objective of the virtual teacher. paper: T^2 D(p_T || q_T), with teacher and "
        "student at T; released: the term of the released code, multiplier / K times D(softmax(p "
        "/ T) || q). There T divides the teacher's probabilities, the student has no temperature, "
        "and the mean is over samples and classes.",
    )
    alpha: float = Field(
        0.1,
        description="Weight of the virtual teacher; cross entropy has the weight 1 - alpha.",
        ge=0,
        le=1,
    )
    correct: Positive = Field(
        0.99,
        description="a, the probability that the virtual teacher gives to the label; the other "
        "classes share the rest equally.",
        le=0.9999,
    )
    temperature: Temperature = Field(
        20.0,
        description="T, the divisor of the logits of virtual teacher and student (paper), or of "
        "the teacher's probabilities (released).",
    )
    multiplier: Positive = Field(
        100.0,
        description="Factor of the released code's term; its ResNet-18 on CIFAR-100 uses 100. "
        "Used by the form released, else ignored.",
        le=1e6,
    )


class TfKD(Method):
    """(1 - alpha) CE + alpha T^2 D(p_T || q_T), p = a on the label, (1 - a) / (K - 1) elsewhere.

    Source: arXiv 1909.11723, equation 9.
    """

    Settings = TfKDSettings
    settings: TfKDSettings
    needs = Needs(labels=True)
    provenance = (
        "Yuan, Tay, Li, Wang & Feng, CVPR 2020 (arXiv 1909.11723), Tf-KD_reg; T^2 is an addition. "
        "The released code differs from equation 9: it leaves the student untempered, computes "
        "softmax(p / T) of the teacher's probabilities p, has no T^2, averages over B x K elements "
        "and applies a multiplier (form: released)"
    )

    def forward(self, batch: Batch) -> Objective:
        """Return the objective; track cross entropy, and the scaled teacher term (`distillation`).

        The softened p is a smoothed label. D is therefore a cross entropy with label smoothing less
        the entropy of p.
        """
        classes, hard = batch.student.logits.shape[1], batch.cross_entropy()
        if self.settings.form == "released":
            soft = self._released(batch, classes)
        else:
            soft = self._paper(batch, classes)
        loss = (1 - self.settings.alpha) * hard + self.settings.alpha * soft
        return Objective(loss, {"cross_entropy": hard.detach(), "distillation": soft.detach()})

    def _paper(self, batch: Batch, classes: int) -> Tensor:
        temperature = self.settings.temperature
        right, wrong = (math.log(each) / temperature for each in self._teacher(classes))
        return _divergence(batch, right, wrong, temperature, temperature**2)

    def _released(self, batch: Batch, classes: int) -> Tensor:
        right, wrong = (each / self.settings.temperature for each in self._teacher(classes))
        return _divergence(batch, right, wrong, 1.0, self.settings.multiplier / classes)

    def _teacher(self, classes: int) -> tuple[float, float]:
        """Return p of the label, and of each other class."""
        correct = self.settings.correct
        return correct, (1 - correct) / (classes - 1)


def _divergence(
    batch: Batch, right: float, wrong: float, temperature: float, scale: float
) -> Tensor:
    """Return scale times the mean of D(softmax(logits) || q_T), ().

    Computed in float64 up to the end. At a high T the cross entropy and the entropy are both nearly
    log K, and the scale is T^2.

    Args:
        batch: Batch of the student.
        right: The teacher's logit of the label.
        wrong: The teacher's logit of each other class.
        temperature: T of the student.
        scale: Factor of the divergence.
    """
    classes, top = batch.student.logits.shape[1], max(right, wrong)
    total = top + math.log(math.exp(right - top) + (classes - 1) * math.exp(wrong - top))
    p_right, p_wrong = math.exp(right - total), math.exp(wrong - total)
    entropy = p_right * (total - right) + (classes - 1) * p_wrong * (total - wrong)
    known = (batch.labelled > 0).double()  # no divergence without a label that counts
    smoothed = batch.unweighted_cross_entropy(
        classes * p_wrong, batch.student.logits.double() / temperature
    )
    return (scale * (smoothed - known * entropy)).to(losses.full_type(batch.student.logits))
