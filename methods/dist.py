"""DIST: match the correlations of the predictions instead of the predictions themselves."""

from pydantic import Field
from torch import Tensor

from methods import losses
from methods.batch import Batch
from methods.correlation import correlate_classes, correlate_samples
from methods.method import Method, Needs, Objective
from methods.settings import Settings, Temperature


class DISTSettings(Settings):
    """Hyper-parameters of DIST; the weight of the cross entropy is 1."""

    beta: float = Field(
        2.0, description="Weight of the relation among the classes of each sample.", ge=0
    )
    gamma: float = Field(
        2.0, description="Weight of the relation among the samples for each class.", ge=0
    )
    temperature: Temperature = Field(
        4.0, description="T, the divisor of the logits of teacher and student."
    )


class DIST(Method):
    """CE + T^2 (beta I + gamma J), with the relations I among classes and J among samples.

    I = 1 - the mean over the samples of the Pearson correlation of p_T and q_T over the classes. J
    = 1 - the mean over the classes of that over the samples of the global batch. Labels count in
    the cross entropy alone: both relations use unlabelled and blended samples.
    """

    Settings = DISTSettings
    settings: DISTSettings
    needs = Needs(teacher=True)
    provenance = (
        "Huang, You, Wang, Qian & Xu, NeurIPS 2022 (arXiv 2205.10536); T^2 is from the released "
        "code; several workers correlate the samples of the global batch, not of their part"
    )

    @property
    def learns_from_teacher(self) -> bool:
        """Return whether a relation has a weight."""
        return self.settings.beta > 0 or self.settings.gamma > 0

    def forward(self, batch: Batch) -> Objective:
        """Return the objective; track cross entropy, and I and J without T^2 and weights."""
        chosen, hard = self.settings, batch.cross_entropy()
        p, q = (
            losses.log_softmax(logits.double(), chosen.temperature).exp()
            for logits in (batch.teacher_logits, batch.student.logits)
        )
        among_classes = 1 - correlate_classes(p, q).mean()
        among_samples = 1 - correlate_samples(p, q, batch).mean()
        soft = chosen.temperature**2 * (chosen.beta * among_classes + chosen.gamma * among_samples)
        terms: dict[str, Tensor] = {
            "cross_entropy": hard,
            "inter_class": among_classes.to(hard.dtype),
            "intra_class": among_samples.to(hard.dtype),
        }
        return Objective(
            hard + soft.to(hard.dtype), {name: value.detach() for name, value in terms.items()}
        )
