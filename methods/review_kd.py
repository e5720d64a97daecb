"""ReviewKD: fuse feature maps of the student from deep to shallow, and match the teacher's."""

from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from methods.batch import Batch
from methods.feature_distillation import FeatureMethod, FeatureSettings
from methods.feature_maps import FeatureStages, MapShape, pair_stages
from methods.method import Knowledge, Needs, ParameterGroup, Progress, Task
from methods.settings import override
from methods.warmup import WarmUp

LARGEST_WIDTH = 512  # channels within a fusion
LEVELS = (4, 2, 1)  # sides of the averaged maps


class ReviewKDSettings(FeatureSettings):
    """Hyper-parameters of ReviewKD."""

    beta: float = override(FeatureSettings, "beta", default=5.0)
    stages: int = Field(
        0,
        description="Number of pairs of stages, counted from the output; 0: as many as both "
        "networks have. The penultimate features are one more pair.",
        ge=0,
        le=1000,
    )
    warmup: float = Field(
        20 / 240,
        description="Share of the epochs over which the weight of the feature term grows "
        "linearly from 0 to beta: in epoch e of E it is beta (e - 1) / (warmup E). Less than one "
        "epoch: no warm-up.",
        ge=0,
        le=1,
    )


class ReviewKD(FeatureMethod):
    """F = sum over levels of HCL(f_k, t_k), with maps f_k fused from the student's maps k and up.

    The levels are the pairs of stages and, as maps with one position, the penultimate features.
    From the last level to the first, attention-based fusion (ABF) adds the student's map of a level
    and the result of the level after it, weighted by their attention, and maps the sum to the
    teacher's channels and side. The hierarchical context loss (HCL) is the weighted mean of the
    mean squared distances of the maps (weight 1) and of the maps averaged to 4x4, 2x2 and 1x1
    positions (weights 1/2, 1/4, 1/8), of the sides that are smaller than the map.

    The fusions are trained with the student and are not part of it. Their batch norm uses the batch
    of a worker, or that of all workers with `sync_batch_norm`.
    """

    Settings = ReviewKDSettings
    settings: ReviewKDSettings
    needs = Needs(teacher=True, features=True)
    provenance = (
        "Chen et al., CVPR 2021 (arXiv 2104.09044): review, ABF and HCL; layers, initial weights, "
        "warm-up of 20 of 240 epochs and beta per pair as in the released code, which trains with "
        "batch 128, learning rate 0.1 (0.02 for ShuffleNet) and Nesterov momentum; mdistiller "
        "trains it in the common recipe, batch 64 and learning rate 0.05. Differences: the "
        "released code takes the teacher's maps before their last ReLU, here they are the outputs "
        "of the stages; networks with different numbers of stages are paired from the output"
    )

    def select_stages(self, student: Sequence[str], teacher: Sequence[str]) -> FeatureStages:
        """Return the last stages of both networks, equally many.

        Raises:
            SettingsError: A network has fewer stages than `stages`.
        """
        return pair_stages(student, teacher, self.settings.stages)

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        """Create the fusions for the shapes of all maps."""
        student = [*task.student_maps.values(), MapShape(task.student_features, 1, 1)]
        teacher = [*task.teacher_maps.values(), MapShape(task.teacher_features, 1, 1)]
        width = min(LARGEST_WIDTH, student[-1].channels)
        last = len(student) - 1
        self.fusions = nn.ModuleList(
            Fusion(own.channels, width, target, fuses=level < last)
            for level, (own, target) in enumerate(zip(student, teacher, strict=True))
        )
        self.warmup = WarmUp(self.settings.warmup, delay=1)
        self.warmup.start(1, task.epochs)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return one group with the recipe's weight decay, as in the released code."""
        return [ParameterGroup(list(self.parameters()), decayed=True)]

    @property
    def beta(self) -> Tensor:
        """Return the weight of the feature term in this epoch, () float64."""
        return self.settings.beta * self.warmup.factor

    def feature_term(self, batch: Batch) -> Tensor:
        """Return the sum over the levels, ()."""
        features = batch.student.features.float(), batch.teacher_features.float()
        last = tuple(each[:, :, None, None] for each in features)
        deeper: Tensor | None = None
        losses = []
        with torch.autocast(features[0].device.type, enabled=False):
            pairs = zip([*batch.map_pairs, last], self.fusions, strict=True)
            for (student, teacher), fusion in reversed(list(pairs)):
                fused, deeper = fusion(student, deeper)
                losses.append(hierarchical_context_loss(fused, teacher))
        return torch.stack(losses).sum()

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """Advance the warm-up; return the weight of the feature term in the finished epoch."""
        factor = self.warmup.end_epoch(progress.epoch, progress.epochs)
        return {"beta": self.settings.beta * factor}


class Fusion(nn.Module):
    """Attention-based fusion of a map of the student with the result of the level after it.

    Args:
        channels: Channels of the student's map.
        width: Channels of the results.
        target: Shape of the teacher's map.
        fuses: Whether there is a level after it.
    """

    def __init__(self, channels: int, width: int, target: MapShape, fuses: bool) -> None:
        super().__init__()
        self.size = (target.height, target.width)
        self.reduce = _normalised_convolution(channels, width, 1)
        self.attention = nn.Conv2d(2 * width, 2, 1) if fuses else None
        self.expand = _normalised_convolution(width, target.channels, 3)

    def forward(self, student: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the fused map in the teacher's shape, and the result for the next level.

        Args:
            student: (B, C, H, W) map of the student.
            deeper: (B, width, H', W') result of the level after it; None at the last level.
        """
        result: Tensor = self.reduce(student)
        if self.attention is not None:
            assert deeper is not None
            deeper = functional.interpolate(deeper, result.shape[2:])
            shares = self.attention(torch.cat([result, deeper], dim=1)).sigmoid()
            result = result * shares[:, :1] + deeper * shares[:, 1:]
        if result.shape[2:] != self.size:
            result = functional.interpolate(result, self.size)
        return self.expand(result), result


def _normalised_convolution(channels: int, width: int, side: int) -> nn.Sequential:
    """Return a convolution that keeps the side of a map, and a batch norm of each batch."""
    convolution = nn.Conv2d(channels, width, side, padding=side // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    # running statistics would not be used: there is no objective in evaluations
    return nn.Sequential(convolution, nn.BatchNorm2d(width, track_running_stats=False))


def hierarchical_context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the HCL of two maps (B, C, H, W), ()."""
    losses, weights = [functional.mse_loss(student, teacher)], [1.0]
    for side in LEVELS:
        if side < min(student.shape[2:]):
            own, target = (
                functional.adaptive_avg_pool2d(each, side) for each in (student, teacher)
            )
            losses.append(functional.mse_loss(own, target))
            weights.append(weights[-1] / 2)
    total = torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum()
    return total / sum(weights)
