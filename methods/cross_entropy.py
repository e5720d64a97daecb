"""Training on labels without a teacher: the baseline of every distillation method."""

from dataclasses import dataclass

from methods.batch import Batch
from methods.method import Method, Needs, Objective
from methods.settings import Settings, setting


@dataclass(frozen=True)
class CrossEntropySettings(Settings):
    """Hyper-parameters of training on labels."""

    label_smoothing: float = setting(
        0.0, "Share of the target that is uniform over all classes.", low=0, high=1
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
