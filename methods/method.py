"""Contract between the training loop and the distillation methods."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from methods.batch import Batch, single_rank_mean
from methods.feature_maps import MapShape
from methods.retrieval import Neighbours, nearest
from methods.settings import Settings as Settings
from methods.settings import SettingsError as SettingsError


@dataclass(frozen=True)
class Objective:
    """Objective of a step: a scalar to minimise, and detached scalars to track by name.

    A method may train parameters of its own by an additional objective. It then tracks the
    student's part alone as `loss`.
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """Inputs that a method requests; the training loop computes no others.

    Attributes:
        teacher: Outputs of the teacher.
        features: Penultimate features of the teacher.
        labels: A label for every sample; unlabelled samples are left out.
        unlabelled: Some training samples without a label.
        unblended: Images of single samples, which mixup and cutmix do not give.
    """

    teacher: bool = False
    features: bool = False
    labels: bool = False
    unlabelled: bool = False
    unblended: bool = False


@dataclass(frozen=True)
class Knowledge:
    """Teacher's outputs on the clean view of the training part, in its order, or a bank's entries.

    Attributes:
        logits: (n, K) float32.
        features: (n, D) of any type and on any device, or None.
        labels: (n,) int64, -1 for unlabelled samples.
        members: (n,) bool, samples that can be retrieved; None means all.
        find: Alternative retrieval, such as from a cache.
    """

    logits: Tensor
    features: Tensor | None
    labels: Tensor
    members: Tensor | None = None
    find: Callable[["Knowledge", int, int], Neighbours] | None = None

    def neighbours(self, positives: int, negatives: int) -> Neighbours:
        """Return each sample's nearest samples: `positives` of its class and `negatives` of others.

        They are on the device of the logits.
        """
        if self.find is not None:
            return self.find(self, positives, negatives)
        assert self.features is not None, "a method that retrieves sets `Needs.bank`"
        return nearest(
            self.features.to(self.labels.device), self.labels, positives, negatives, self.members
        )


@dataclass(frozen=True)
class Task:
    """Sizes of the learning task and of the networks, and communication between the ranks.

    Attributes:
        classes: K, classes.
        samples: n, training samples.
        epochs: Epochs of the trial.
        mean: Mean of a tensor over the ranks, returned on every rank; all ranks must call it
            together.
        gather: Tensors of all ranks, of one shape, concatenated in rank order along dimension 0, on
            every rank; without a gradient. All ranks must call it together.
        labels: (n,) int64 labels of the training samples, -1 for unlabelled ones.
        student_features: Length of the student's features.
        teacher_features: Length of the teacher's features; 0 without a teacher.
        student_maps: Shapes of the student's feature maps, by the selected stages.
        teacher_maps: Shapes of the teacher's feature maps, by the selected stages.
    """

    classes: int
    samples: int
    epochs: int
    mean: Callable[[Tensor], Tensor] = single_rank_mean
    gather: Callable[[Tensor], Tensor] = single_rank_mean
    labels: Tensor | None = None
    student_features: int = 0
    teacher_features: int = 0
    student_maps: Mapping[str, MapShape] = field(default_factory=dict)
    teacher_maps: Mapping[str, MapShape] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """State of a trial after an epoch (1 = the first has finished), with its validation metrics."""

    epoch: int
    epochs: int
    validation: Mapping[str, float]


class ParameterGroup(NamedTuple):
    """Parameters of a method with a common learning rate: the recipe's (None), or their own.

    Their own rate follows the recipe's schedule if `scheduled` is set, else it is constant. They
    have the recipe's weight decay if `decayed` is set, else none.
    """

    parameters: list[nn.Parameter]
    learning_rate: float | None = None
    scheduled: bool = True
    decayed: bool = False


# Inside `Method` the name `Settings` is its class attribute, which an annotation cannot use.
AnySettings = Settings


class Method(nn.Module):
    """Objective of a student, with optional parameters of its own.

    These are trained together with the student's and reduced by DDP. A subclass sets `Settings`,
    `needs` and `provenance` (paper, and certainty of its parts), and implements `forward`. If the
    needs depend on the settings, an instance has its own `needs`; the class has those of the
    default settings. Everything beyond this core is a capability (`methods/capabilities.py`).

    DDP broadcasts buffers from rank 0 before each step, unless `has_equal_buffers` declares that
    the method itself keeps them equal on all ranks.
    """

    Settings: ClassVar[type[AnySettings]] = Settings
    needs: Needs = Needs()
    provenance: ClassVar[str] = ""
    has_equal_buffers: ClassVar[bool] = False

    def __init__(self, settings: AnySettings) -> None:
        super().__init__()
        self.settings = settings

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        """Set up everything that depends on the task, own parameters included.

        Called once per trial, before the first step and before a resume.

        Args:
            knowledge: Function that returns the teacher's outputs; None without a teacher. Its
                first call costs a pass of the teacher.
            task: Size of the learning task.
        """

    @property
    def learns_from_teacher(self) -> bool:
        """Return whether a term of the teacher trains all layers of the student.

        A method whose settings can set the weight of that term to 0 overrides this.
        """
        return self.needs.teacher

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the groups of the method's own parameters; each parameter is in one group."""
        return [ParameterGroup(list(self.parameters()))]

    def forward(self, batch: Batch) -> Objective:
        """Return the objective on one batch, in float32 regardless of the autocast type."""
        raise NotImplementedError

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """Advance schedules after an epoch or a resume; all ranks do the same.

        Returns:
            Values to plot, by name. Numbers are tracked as metrics. Arrays are kept, one per epoch,
            for the figures of the trial.
        """
        return {}
