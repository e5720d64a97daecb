"""KD-AIF: distillation that weights training samples by their influence on the validation loss.

`influence_weighting.py` computes the weights.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from methods import losses
from methods.batch import Batch
from methods.influence_weighting import (
    InfluenceWeighting,
    InfluenceWeightingSettings,
    WeightedObjective,
)
from methods.method import Method, Needs, Objective
from methods.sample_weighting import StudentSurvey
from methods.settings import Positive, Temperature
from methods.tempered_objective import Losses, Term

TEACHER_UPDATES = ("teacher_only", "both")  # updates that train the teacher with the weights


class KDAIFSettings(InfluenceWeightingSettings):
    """Hyper-parameters of KD-AIF; with all weights 1 it is KD in its convex form.

    The exception is `update: ssl`.
    """

    alpha: float = Field(
        0.9,
        description="Weight of the teacher; cross entropy has the weight 1 - alpha. Not used by "
        "update: ssl.",
        ge=0,
        le=1,
    )
    temperature: Temperature = Field(
        4.0, description="T, the divisor of the logits of teacher and student."
    )
    teacher_learning_rate: Positive = Field(
        0.01,
        description="Learning rate of the epoch in which the teacher is trained after new "
        "weights. Used by teacher_only, both, and ssl with feedback.",
    )
    unlabelled_weight: float = Field(
        1.0,
        description="mu, the weight of the term of the unlabelled samples; cross entropy has "
        "weight 1. Used by ssl.",
        ge=0,
    )
    pseudo: Literal["soft", "hard"] = Field(
        "soft",
        description="Targets of the unlabelled samples. soft: the teacher's softened "
        "distribution; hard: the teacher's class if its probability reaches the threshold, else "
        "none. Used by ssl.",
    )
    threshold: float = Field(
        0.95,
        description="Least probability of the class that the teacher predicts for a hard "
        "pseudo-label. Used by ssl with pseudo: hard.",
        ge=0,
        le=1,
    )

    feedback: float = Field(
        0.0,
        description="eta, the strength of the teacher's update by the effect of its pseudo-labels "
        "on the student's loss on labels; 0: no update. Used by ssl.",
        ge=0,
    )


class KDAIF(Method):
    """Mean of w_i [(1 - alpha) CE_i + alpha T^2 D_i]; `ssl`: CE on labels + mu mean(w_u D_u).

    D_i is D(p_T || q_T) of sample i. Under `ssl` the second mean is over the unlabelled samples u.
    There D_u is T^2 D(p_T || q_T) with soft targets. With hard targets it is the cross entropy with
    the teacher's class if its probability reaches `threshold`.
    """

    Settings = KDAIFSettings
    settings: KDAIFSettings
    needs = Needs(teacher=True)
    provenance = (
        "arXiv 2501.02705 (2025), of which only the abstract and the released code were available: "
        "the recipe and the map `exp` are from the code, whose sign gives harmful samples larger "
        "weights and is corrected here (`sign: released` keeps it); estimators, other maps, "
        "updates and the semi-supervised form are reconstructions, and no number of the paper is "
        "claimed"
    )

    def __init__(self, settings: KDAIFSettings) -> None:
        super().__init__(settings)
        self.needs = Needs(teacher=True, unlabelled=settings.update == "ssl")

    def weighting_plan(self, epochs: int) -> InfluenceWeighting:
        """Return the weighting by influence on the validation part."""
        return InfluenceWeighting(self.settings, epochs, self.weighted_objective)

    @property
    def teacher_lr(self) -> float:
        """Return the learning rate of the updates that train the teacher; 0 if none does."""
        chosen = self.settings
        teaches = chosen.update in TEACHER_UPDATES or (
            chosen.update == "ssl" and chosen.feedback > 0
        )
        return chosen.teacher_learning_rate if teaches else 0.0

    def forward(self, batch: Batch) -> Objective:
        """Return the weighted objective.

        Tracked are cross entropy and distillation without weights, and the mean weight of the
        batch.
        """
        assert batch.weights is not None, (
            "the training loop provides weights to a method that weights samples"
        )
        if self.settings.update == "teacher_only":
            weights = torch.ones_like(batch.weights)
        else:
            weights = batch.weights
        if self.settings.update == "ssl":
            return self._semi_supervised(batch, weights)
        return self._supervised(batch, weights)

    def weighted_objective(self, survey: StudentSurvey) -> WeightedObjective:
        """Return the objective of `forward` over the whole training part.

        The objective is 1/n times the sum over the samples.
        """
        chosen, (logits, _, labels) = self.settings, survey.training
        assert survey.teacher is not None, (
            "the training loop provides a teacher if `needs.teacher` is set"
        )
        labelled = labels != -1
        share = len(labels) / labelled.sum().clamp(
            min=1
        )  # turns a mean over all samples into one over the labelled
        truth = _one_hot(labels.clamp(min=0), logits)
        soft = losses.log_softmax(survey.teacher, chosen.temperature).exp()
        if chosen.update != "ssl":
            terms = (
                Term((1 - chosen.alpha) * share * labelled, 1.0, truth),
                Term(chosen.alpha * survey.rates, chosen.temperature, soft),
            )
            if chosen.update == "teacher_only":
                weights = torch.ones_like(survey.weights)
            else:
                weights = survey.weights
            return WeightedObjective(Losses(terms), weights, torch.ones_like(labelled))
        used, classes = self._select_pseudo_labels(survey.teacher, labels)
        strength = chosen.unlabelled_weight * len(labels) / (~labelled).sum().clamp(min=1) * used
        pseudo = Term(strength, chosen.temperature, soft)
        if chosen.pseudo == "hard":
            pseudo = Term(strength, 1.0, _one_hot(classes, logits))
        return WeightedObjective(
            Losses((Term(share * labelled, 1.0, truth), pseudo)), survey.weights, used
        )

    def teacher_loss(self, batch: Batch, progress: float) -> Tensor:
        """Return the teacher's objective: weighted cross entropy.

        Under `ssl` it is cross entropy on labels + eta progress CE(pseudo-labels), the scalar
        feedback of Meta Pseudo Labels (Pham et al. 2021, arXiv 2003.10580). Pseudo-labels that
        helped the student are reinforced, others unlearned.
        """
        if self.settings.update != "ssl":
            assert batch.weights is not None, (
                "the training loop provides weights to a method that weights samples"
            )
            return (batch.weights * batch.cross_entropies()).mean()
        used, classes = self._select_pseudo_labels(batch.teacher_logits, batch.labels)
        pseudo = batch.mean_over(
            losses.cross_entropies(batch.student.logits, torch.where(used, classes, -1)), used
        )
        return batch.cross_entropy() + self.settings.feedback * progress * pseudo

    def _supervised(self, batch: Batch, weights: Tensor) -> Objective:
        alpha, temperature = self.settings.alpha, self.settings.temperature
        hard = batch.cross_entropies()  # (B,)
        soft = temperature**2 * losses.tempered_kl(
            batch.teacher_logits, batch.student.logits, temperature
        )  # (B,)
        loss = (weights * ((1 - alpha) * hard + alpha * soft)).mean()
        return Objective(loss, self._tracked(hard.mean(), soft.mean(), weights))

    def _semi_supervised(self, batch: Batch, weights: Tensor) -> Objective:
        chosen, hard, teacher = self.settings, batch.cross_entropy(), batch.teacher_logits
        used, classes = self._select_pseudo_labels(teacher, batch.labels)
        if chosen.pseudo == "soft":
            pseudo_loss = chosen.temperature**2 * losses.tempered_kl(
                teacher, batch.student.logits, chosen.temperature
            )  # (B,)
        else:
            pseudo_loss = losses.cross_entropies(batch.student.logits, classes)
        pseudo_loss, unlabelled = pseudo_loss * used, batch.labels == -1
        loss = hard + self.settings.unlabelled_weight * batch.mean_over(
            weights * pseudo_loss, unlabelled
        )
        return Objective(
            loss, self._tracked(hard, batch.mean_over(pseudo_loss, unlabelled), weights)
        )

    def _select_pseudo_labels(self, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples learned without a label, (B,), and the teacher's class of each sample.

        With hard pseudo-labels a sample is used only if the probability of its class reaches
        `threshold`.
        """
        confidence, classes = losses.log_softmax(teacher).exp().max(dim=1)
        unlabelled = labels == -1
        return (
            unlabelled
            if self.settings.pseudo == "soft"
            else unlabelled & (confidence >= self.settings.threshold)
        ), classes

    @staticmethod
    def _tracked(hard: Tensor, soft: Tensor, weights: Tensor) -> dict[str, Tensor]:
        return {
            "cross_entropy": hard.detach(),
            "distillation": soft.detach(),
            "weight": weights.mean(),
        }


def _one_hot(classes: Tensor, logits: Tensor) -> Tensor:
    """Return one-hot classes (n, K) in the type of the logits."""
    return functional.one_hot(classes, logits.shape[1]).to(logits.dtype)
