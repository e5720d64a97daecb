"""What a method is: the contract between the training loop and everything a student can minimise.

Knows torch alone: nothing of data, trainers or trials.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from methods import losses
from methods.banking import BankSchedule
from methods.batch import Batch, alone
from methods.retrieval import Neighbours, nearest
from methods.settings import Settings as Settings
from methods.settings import SettingsError as SettingsError
from methods.settings import another_default as another_default
from methods.settings import other_words as other_words
from methods.settings import setting as setting
from methods.weighing import Weighing


@dataclass(frozen=True)
class Objective:
    """The scalar to minimise, and detached scalars to track under their names.

    A method that trains parameters of its own by more than the student's loss tracks the student's alone as `loss`.
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """What the training loop has to bring; it computes nothing that nobody needs.

    `bank`: features of the whole training part with its knowledge, out of which samples are retrieved. `weights`: of the training
    samples, found as `Method.weighing` says. `labels`: every sample has one, the others are left out.
    """

    teacher: bool = False
    features: bool = False
    bank: bool = False
    peer: bool = False
    weights: bool = False
    labels: bool = False


@dataclass(frozen=True)
class Knowledge:
    """What the teacher says about the clean view of the training part, in its order; or what fills a bank in its place.

    logits (n, K) float32, features (n, D) in any type and place, or None, labels (n,) int64, -1 = without label. `members` (n,)
    bool: the samples that can be retrieved, None = all. `find` retrieves in another way, such as from a cache.
    """

    logits: Tensor
    features: Tensor | None
    labels: Tensor
    members: Tensor | None = None
    find: Callable[["Knowledge", int, int], Neighbours] | None = None

    def neighbours(self, positives: int, negatives: int) -> Neighbours:
        """So many nearest samples of each sample's class and of the others, on the device of the logits."""
        if self.find is not None:
            return self.find(self, positives, negatives)
        assert self.features is not None, "who retrieves says so by `Needs.bank`"
        return nearest(self.features.to(self.labels.device), self.labels, positives, negatives, self.members)


@dataclass(frozen=True)
class Task:
    """The size of what is learned: classes K, training samples n, epochs of the trial; and who else trains this student.

    `mean` gives the mean of a tensor over the ranks, on every rank; all of them call it together.
    """

    classes: int
    samples: int
    epochs: int
    mean: Callable[[Tensor], Tensor] = alone


@dataclass(frozen=True)
class Progress:
    """Where the trial stands after an epoch (1 = the first one is finished), with its validation metrics."""

    epoch: int
    epochs: int
    validation: Mapping[str, float]


class ParameterGroup(NamedTuple):
    """Parameters of a method that are trained alike: at the recipe's rate (None), or one of their own.

    A rate of their own follows the recipe's schedule when `scheduled`, else it stays. Weight decay is always 0.
    """

    parameters: list[nn.Parameter]
    learning_rate: float | None = None
    scheduled: bool = True


@dataclass(frozen=True)
class LookAhead:
    """What a method sees that looks beyond a step before it is made; asking changes nothing.

    `parameters`: the student's, by name. `training` and `held_out` give the batch of the step, and one of the validation
    part (labels, no teacher), with what the student says at any parameters. `learning_rate`: of the step to come.
    """

    parameters: Mapping[str, Tensor]
    training: Callable[[Mapping[str, Tensor]], Batch]
    held_out: Callable[[Mapping[str, Tensor]], Batch]
    learning_rate: float


# Inside `Method` the name `Settings` is its class attribute, which cannot stand in an annotation.
AnySettings = Settings


class Method(nn.Module):
    """What a student minimises. Its own parameters, if any, are trained beside the student's and reduced by DDP.

    A subclass sets `Settings`, `needs` and `provenance` (paper, and how much of it is certain), and writes `forward`. Where the
    needs follow from the settings an instance has its own, and the class those of the default settings.
    """

    Settings: ClassVar[type[AnySettings]] = Settings
    needs: Needs = Needs()
    provenance: ClassVar[str] = ""

    def __init__(self, settings: AnySettings) -> None:
        super().__init__()
        self.settings = settings

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        """Once per trial, before the first step and before a resume: whatever depends on the task, own parameters too.

        `knowledge` costs a pass of the teacher for whoever calls it first, and is None without a teacher.
        """

    def parameter_groups(self) -> list[ParameterGroup]:
        """How the own parameters are trained; every one of them is in one group."""
        return [ParameterGroup(list(self.parameters()))]

    def forward(self, batch: Batch) -> Objective:
        """The objective on one batch, in float32 whatever the autocast type."""
        raise NotImplementedError

    @property
    def looks_ahead_every(self) -> int:
        """Before every so many steps `look_ahead` is called; 0: never."""
        return 0

    @property
    def hears(self) -> bool:
        """Whether the students of a trial hear one another; else each is trained on its own."""
        return self.needs.peer

    @property
    def alternates(self) -> bool:
        """Whether the students step in turn, each hearing what those before it say after their step; else all at once."""
        return False

    def look_ahead(self, ahead: LookAhead) -> None:
        """Before a step: what the method wants to know of the student after it."""

    def weighing(self, epochs: int) -> Weighing | None:
        """How the weights of the samples are found in a trial of so many epochs; None: nobody asks, and `Batch.weights` is None.

        SettingsError when none would ever come into force.
        """
        return None

    def banking(self, epochs: int) -> BankSchedule | None:
        """How students fill a bank in a trial of so many epochs; None: they fill none.

        SettingsError when none would ever come into force.
        """
        return None

    def refresh(self, knowledge: Knowledge) -> None:
        """A bank that students filled comes into force, as `banking` says; after a resume, too."""

    @property
    def retrieves(self) -> tuple[int, int]:
        """How many samples of its class, and how many of others, it looks up for each sample: its `positives`, `negatives`."""
        return 0, 0

    @property
    def neighbours(self) -> Neighbours | None:
        """What was retrieved for the training part and is in force, for whoever looks at it."""
        return None

    @property
    def needs_unlabelled(self) -> bool:
        """Whether it has a meaning only where some of the training samples have no label."""
        return False

    @property
    def teaching_rate(self) -> float:
        """The learning rate at which the teacher is trained for an epoch whenever new weights come into force; 0: it stays."""
        return 0.0

    def teach(self, batch: Batch, progress: float) -> Tensor:
        """What the teacher minimises on a batch, a scalar; `progress`: by how much the student's loss on its labels fell meanwhile.

        `batch.student` is what the teacher says while it is trained, `batch.teacher` what it said before.
        """
        raise NotImplementedError

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """After each epoch and after a resume, the same on all ranks: move schedules on; return what to draw, by name.

        Numbers are tracked as metrics; arrays are kept, one per epoch, for the pictures of the trial.
        """
        return {}

    def show(self, batch: Batch) -> dict[str, Tensor]:
        """Distributions (B, K) by name that a person wants to see of a few samples: who says what of them."""
        shown = {"student": losses.log_softmax(batch.student.logits).exp()}
        return shown if batch.teacher is None else {"teacher": losses.log_softmax(batch.teacher_logits).exp()} | shown

    def class_weights(self, batch: Batch) -> Tensor | None:
        """By how much each class of the teacher is multiplied, (B, K), 1 = unchanged; None where the method does no such thing."""
        return None
