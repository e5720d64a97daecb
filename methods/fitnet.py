"""FitNet: regress a feature map of the teacher from one of the student (hint learning)."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from methods.batch import Batch
from methods.feature_distillation import FeatureMethod, FeatureSettings, pool_to_smaller
from methods.feature_maps import FeatureStages, MapShape, describe_maps, select_stage
from methods.method import Knowledge, ParameterGroup, Task
from methods.settings import SettingsError


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
    regressor: Literal["pointwise", "released"] = Field(
        "pointwise",
        description="Regressor of the hint. pointwise: a 1x1 convolution and ReLU, on maps "
        "averaged to the smaller side; released: that of RepDistiller, a convolution to the "
        "teacher's side, batch norm and ReLU, with weight decay.",
    )


class FitNet(FeatureMethod):
    """F = |r(s) - t|^2, the mean over samples, channels and positions.

    s and t are the maps of the selected stages, averaged to the smaller side of the two. The
    regressor r is a 1x1 convolution with ReLU from the student's channels to the teacher's. It is
    trained with the student, and is not part of it. The released regressor convolves maps of the
    same side by 1x1, to half the side by 3x3 with stride 2, to the double side by a transposed
    4x4, and to another smaller side by a kernel of the difference plus 1.
    """

    Settings = FitNetSettings
    settings: FitNetSettings
    provenance = (
        "Romero et al., ICLR 2015 (arXiv 1412.6550): hint, guided stage and squared distance. The "
        "paper trains the first half of the student by the hint before it distils the logits; "
        "here, as in RepDistiller (Tian et al., ICLR 2020), all terms are trained together, with "
        "its beta of 100 and the second of three stages. The regressor `released` is its own, with "
        "batch norm, default initial weights and weight decay; `pointwise` has none of them"
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
        """Create the regressor for the channels of both maps.

        Raises:
            SettingsError: The released regressor does not exist for the sides of the maps.
        """
        (student,), (teacher,) = task.student_maps.values(), task.teacher_maps.values()
        if self.settings.regressor == "pointwise":
            self.regressor: nn.Module = nn.Conv2d(student.channels, teacher.channels, 1)
            nn.init.kaiming_normal_(self.regressor.weight, nonlinearity="relu")
            return
        convolution = _convolution_to(student, teacher)
        if convolution is None:
            raise SettingsError(
                "regressor = 'released' does not enlarge maps except to the double side "
                f"({describe_maps(task.student_maps, task.teacher_maps)}): choose stages of other "
                "sizes, or regressor=pointwise",
                "regressor",
                value="released",
                allowed=("pointwise",),
            )
        norm = nn.BatchNorm2d(teacher.channels, track_running_stats=False)
        self.regressor = nn.Sequential(convolution, norm)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return one group; the released regressor has the recipe's weight decay."""
        decayed = self.settings.regressor == "released"
        return [ParameterGroup(list(self.parameters()), decayed=decayed)]

    def feature_term(self, batch: Batch) -> Tensor:
        """Return the mean squared distance, ()."""
        (pair,) = batch.map_pairs
        pooled = self.settings.regressor == "pointwise"
        student, teacher = pool_to_smaller(*pair) if pooled else pair
        with torch.autocast(student.device.type, enabled=False):
            return functional.mse_loss(self.regressor(student).relu(), teacher)


def _convolution_to(student: MapShape, teacher: MapShape) -> nn.Module | None:
    """Return RepDistiller's convolution from a student's map to a teacher's; None without one."""
    channels, (height, width) = (student.channels, teacher.channels), student[1:]
    if (height, width) == (2 * teacher.height, 2 * teacher.width):
        return nn.Conv2d(*channels, 3, stride=2, padding=1)
    if (2 * height, 2 * width) == (teacher.height, teacher.width):
        return nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
    if height >= teacher.height and width >= teacher.width:
        return nn.Conv2d(*channels, (1 + height - teacher.height, 1 + width - teacher.width))
    return None
