"""Training on labels without a teacher: the baseline of every distillation method."""

from pydantic import Field

from methods.batch import Batch
from methods.method import Method, Needs, Objective
from methods.settings import Settings


class CrossEntropySettings(Settings):
    """Hyper-parameters of training on labels."""

    label_smoothing: float = Field(
        0.0, description="Share of the target that is uniform over all classes.", ge=0, le=1
    )


class CrossEntropy(Method):
    """Mean cross entropy of the labelled samples."""

    Settings = CrossEntropySettings
    settings: CrossEntropySettings
    needs = Needs(labels=True)
    provenance = "Standard; label smoothing as in Szegedy et al. 2016 (arXiv 1512.00567)"

    def forward(self, batch: Batch) -> Objective:
        """Return the mean cross entropy over the labelled samples of the batch."""
        loss = batch.cross_entropy(self.settings.label_smoothing)
        return Objective(loss, {"cross_entropy": loss.detach()})
