"""Attention transfer (AT): match where the feature maps of student and teacher are large."""

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from methods.batch import Batch
from methods.feature_distillation import FeatureMethod, FeatureSettings, pool_to_smaller
from methods.feature_maps import FeatureStages, describe_maps, pair_stages
from methods.method import Knowledge, Task
from methods.settings import SettingsError, override


class AttentionTransferSettings(FeatureSettings):
    """Hyper-parameters of attention transfer."""

    beta: float = override(FeatureSettings, "beta", default=1000.0)
    stages: int = Field(
        0,
        description="Number of pairs of stages, counted from the output; 0: as many as both "
        "networks have.",
        ge=0,
        le=1000,
    )


class AttentionTransfer(FeatureMethod):
    """F = sum over pairs of stages of the mean of (a(s) - a(t))^2 over samples and positions.

    a(m) is the mean of m^2 over the channels, divided by its Euclidean norm over the positions. The
    last stage of the student is paired with the last one of the teacher, and so on. Maps are
    averaged to the smaller side of the two before.
    """

    Settings = AttentionTransferSettings
    settings: AttentionTransferSettings
    provenance = (
        "Zagoruyko & Komodakis, ICLR 2017 (arXiv 1612.03928): attention of squared activations; "
        "mean over positions and beta as in the paper's released code and RepDistiller (Tian "
        "et al., ICLR 2020). Networks with different numbers of stages are paired from the output"
    )

    def select_stages(self, student: Sequence[str], teacher: Sequence[str]) -> FeatureStages:
        """Return the last stages of both networks, equally many.

        Raises:
            SettingsError: A network has fewer stages than `stages`.
        """
        return pair_stages(student, teacher, self.settings.stages)

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        """Check that every pair of maps has positions.

        Raises:
            SettingsError: A map has a single position, so its attention is always 1.
        """
        for side, shapes in (("student", task.student_maps), ("teacher", task.teacher_maps)):
            for name, shape in shapes.items():
                if shape.height * shape.width == 1:
                    raise SettingsError(
                        f"stages = {self.settings.stages} includes {name} of the {side}, whose map "
                        f"has a single position, where attention is always 1 "
                        f"({describe_maps(task.student_maps, task.teacher_maps)}): choose a "
                        f"network as {side} that reduces the side less, or method.name=fitnet",
                        "stages",
                        value=self.settings.stages,
                        allowed="stages with several positions",
                    )

    def feature_term(self, batch: Batch) -> Tensor:
        """Return the sum over the pairs of stages, ()."""
        return torch.stack([_distance(*pair) for pair in batch.map_pairs]).sum()


def _distance(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = pool_to_smaller(student, teacher)
    return (attention(student) - attention(teacher)).square().mean()


def attention(maps: Tensor) -> Tensor:
    """Return the normalised attention (B, H W) of maps (B, C, H, W)."""
    return functional.normalize(maps.square().mean(dim=1).flatten(1), dim=1)
