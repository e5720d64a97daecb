"""Multi-level logit distillation: match instances, their similarities, and class correlations."""

import torch
from pydantic import Field
from torch import Tensor

from methods import losses
from methods.batch import Batch
from methods.method import Method, Needs, Objective
from methods.settings import Temperature
from methods.standardization import StandardizationSettings

AUGMENTED = (2.0, 3.0, 5.0, 6.0)  # temperatures of the prediction augmentation


class MLKDSettings(StandardizationSettings):
    """Hyper-parameters of MLKD; `standardize` applies to the instances alone."""

    lambda_ce: float = Field(0.1, description="Weight of the cross entropy.", ge=0)
    instance: float = Field(0.9, description="Weight of the divergence of each sample.", ge=0)
    batch_level: float = Field(0.9, description="Weight of the similarities between samples.", ge=0)
    class_level: float = Field(0.9, description="Weight of the correlations between classes.", ge=0)
    temperature: Temperature = Field(
        4.0, description="T, the divisor of the logits of teacher and student."
    )
    augment: bool = Field(
        True,
        description="Prediction augmentation: add the terms of the temperatures 2, 3, 5 and 6.",
    )


class MLKD(Method):
    """lambda_ce CE + the sum over the temperatures t of w_i I + w_b J / N + w_c C / K.

    I is the mean of t^2 D(p_t || q_t). P and Q (N, K) are the probabilities of teacher and student
    for the N samples of the global batch. J = |P P^T - Q Q^T|^2 compares the similarities of all
    pairs of samples, and C = |P^T P - Q^T Q|^2 the correlations of all pairs of classes (squared
    Frobenius norms). All samples count in them, also unlabelled and blended ones. Several workers
    exchange 3 K^2 numbers for each temperature, so that their batch is one.
    """

    Settings = MLKDSettings
    settings: MLKDSettings
    needs = Needs(teacher=True)
    provenance = (
        "Jin, Wang & Lin, CVPR 2023; the three levels and the temperatures are those of the "
        "released code. It trains on a weak and a strong view of each image with two passes of "
        "both networks. It adds the cross entropies of both views, halves the three levels of the "
        "weak view, and uses the strong view for the divergences at 3, 4 and 5 alone. Here all "
        "terms are of one view, so this is not the published protocol. `standardize`: Sun et al., "
        "CVPR 2024 (arXiv 2403.01427)"
    )

    @property
    def learns_from_teacher(self) -> bool:
        """Return whether a level has a weight."""
        chosen = self.settings
        return max(chosen.instance, chosen.batch_level, chosen.class_level) > 0

    def forward(self, batch: Batch) -> Objective:
        """Return the objective; track its four terms without their weights."""
        chosen, hard = self.settings, batch.cross_entropy()
        temperatures = (chosen.temperature, *(AUGMENTED if chosen.augment else ()))
        teacher, student = batch.teacher_logits, batch.student.logits
        scaled = chosen.scale_logits(teacher), chosen.scale_logits(student)
        instance = torch.stack(
            [each**2 * losses.tempered_kl(*scaled, each).mean() for each in temperatures]
        ).sum()
        batch_level, class_level = _relations(batch, teacher, student, temperatures)
        soft = chosen.batch_level * batch_level + chosen.class_level * class_level
        loss = chosen.lambda_ce * hard + chosen.instance * instance + soft.to(hard.dtype)
        terms = {
            "cross_entropy": hard,
            "instance": instance,
            "batch_level": batch_level.to(hard.dtype),
            "class_level": class_level.to(hard.dtype),
        }
        return Objective(loss, {name: value.detach() for name, value in terms.items()})


def _relations(
    batch: Batch, teacher: Tensor, student: Tensor, temperatures: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    """Return J / N and C / K, () float64 each, summed over the temperatures.

    Both follow from products over the samples: |P P^T - Q Q^T|^2 = |P^T P|^2 + |Q^T Q|^2 - 2 |P^T
    Q|^2. Products of the ranks add up to those of the global batch.
    """
    p, q = (
        torch.stack([losses.log_softmax(logits.double(), each).exp() for each in temperatures])
        for logits in (teacher, student)
    )  # (t, B, K)
    pairs = ((p, p), (q, q), (p, q))
    with torch.autocast(student.device.type, enabled=False):
        products = torch.stack([first.mT @ second for first, second in pairs])  # (3, t, K, K)
    of_teacher, of_student, mixed = batch.ranks * batch.mean_over_ranks(products)
    samples, classes = batch.ranks * len(student), student.shape[1]
    squares = of_teacher.square() + of_student.square() - 2 * mixed.square()
    return squares.sum() / samples, (of_teacher - of_student).square().sum() / classes
