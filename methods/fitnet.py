"""FitNet: regress a feature map of the teacher from one of the student (hint learning)."""

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from methods.batch import Batch
from methods.feature_distillation import FeatureMethod, FeatureSettings, pool_to_smaller
from methods.feature_maps import FeatureStages, select_stage
from methods.method import Knowledge, Task


class FitNetSettings(FeatureSettings):
    """Hyper-parameters of FitNet."""

    student_stage: int = Field(
        0, description="Number of the student's stage, from 1; 0: the middle one.", ge=0, le=1000
    )
    teacher_stage: int = Field(
        0,
        description="Number of the teacher's stage, the hint, from 1; 0: the middle one.",
        ge=0,
        le=1000,
    )


class FitNet(FeatureMethod):
    """F = |r(s) - t|^2, the mean over samples, channels and positions.

    s and t are the maps of the selected stages, averaged to the smaller side of the two. The
    regressor r is a 1x1 convolution with ReLU from the student's channels to the teacher's. It is
    trained with the student, and is not part of it.
    """

    Settings = FitNetSettings
    settings: FitNetSettings
    provenance = (
        "Romero et al., ICLR 2015 (arXiv 1412.6550): hint, guided stage and squared distance. The "
        "paper trains the first half of the student by the hint before it distils the logits; "
        "here, as in RepDistiller (Tian et al., ICLR 2020), all terms are trained together. Maps "
        "of different sides are averaged to the smaller one, where RepDistiller adapts the "
        "regressor's kernel; its regressor also has batch normalisation"
    )

    def select_stages(self, student: Sequence[str], teacher: Sequence[str]) -> FeatureStages:
        """Return one stage of each network.

        Raises:
            SettingsError: A network has fewer stages.
        """
        chosen = self.settings
        return FeatureStages(
            (select_stage(student, chosen.student_stage, "student_stage"),),
            (select_stage(teacher, chosen.teacher_stage, "teacher_stage"),),
        )

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        """Create the regressor for the channels of both maps."""
        (student,), (teacher,) = task.student_maps.values(), task.teacher_maps.values()
        self.regressor = nn.Conv2d(student.channels, teacher.channels, 1)
        nn.init.kaiming_normal_(self.regressor.weight, nonlinearity="relu")

    def feature_term(self, batch: Batch) -> Tensor:
        """Return the mean squared distance, ()."""
        (pair,) = batch.map_pairs
        student, teacher = pool_to_smaller(*pair)
        with torch.autocast(student.device.type, enabled=False):
            return functional.mse_loss(self.regressor(student).relu(), teacher)
