"""Teacher-free distillation from a virtual teacher, who is right about every label. Knows labels alone."""

import math
from dataclasses import dataclass

import torch

from methods.method import Batch, Method, Needs, Objective
from methods.settings import Settings, setting, temperature_setting


@dataclass(frozen=True)
class TfKDSettings(Settings):
    """Hyper-parameters of Tf-KD; those of the paper's regularisation are `correct` of 0.9 and more, and T of 20 and more."""

    alpha: float = setting(0.1, "weight of the virtual teacher; cross entropy has 1 - alpha", low=0, high=1)
    correct: float = setting(
        0.99, "a: what the virtual teacher gives to the label; the other classes share the rest", above=0, high=0.9999
    )
    temperature: float = temperature_setting(20.0, "T: divides the logits of the virtual teacher and the student")


class TfKD(Method):
    """(1 - alpha) CE + alpha T^2 D(p_T || q_T), p = a on the label and (1 - a) / (K - 1) elsewhere (equation 9)."""

    Settings = TfKDSettings
    settings: TfKDSettings
    needs = Needs(labels=True)
    provenance = "Yuan, Tay, Li, Wang & Feng, CVPR 2020 (arXiv 1909.11723), Tf-KD_reg; T^2 and the default alpha are ours"

    def forward(self, batch: Batch) -> Objective:
        """The objective; tracked: cross entropy and T^2 D (`distillation`).

        The softened p is a smoothed label, so that D is a cross entropy with label smoothing less p's own entropy.
        """
        alpha, temperature, classes = self.settings.alpha, self.settings.temperature, batch.student.logits.shape[1]
        right, wrong = self._softened(classes)
        entropy = -(right * math.log(right) + (classes - 1) * wrong * math.log(wrong))
        hard = batch.cross_entropy()
        known = (batch.labelled > 0).float()  # where no label counts there is no divergence either
        # in double precision: at a high T both are nearly log K, and their difference is multiplied by T^2
        smoothed = batch.cross_entropy(classes * wrong, batch.student.logits.double() / temperature)
        soft = (temperature**2 * (smoothed - known * entropy)).float()
        loss = (1 - alpha) * hard + alpha * soft
        return Objective(loss, {"cross_entropy": hard.detach(), "distillation": soft.detach()})

    def _softened(self, classes: int) -> tuple[float, float]:
        """p_T of the label and of each other class."""
        chosen = self.settings
        p = torch.full((classes,), (1 - chosen.correct) / (classes - 1), dtype=torch.float64)
        p[0] = chosen.correct
        softened = (p.log() / chosen.temperature).softmax(dim=0)
        return float(softened[0]), float(softened[1])
