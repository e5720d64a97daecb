"""Capabilities that a method may have beyond its core.

A method has a capability by implementing its protocol; it declares nothing else. The component of
the same name in `orchestrator/training/capabilities` serves it during training. The functions at
the end return a neutral value for a method without the capability.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, runtime_checkable

from torch import Tensor

from methods.bank_plan import BankPlan
from methods.batch import Batch
from methods.feature_maps import FeatureStages
from methods.method import Knowledge, Method
from methods.retrieval import Neighbours
from methods.sample_weighting import WeightingPlan


@dataclass(frozen=True)
class LookAhead:
    """Access to a student before a step, for methods that look beyond it; its use changes nothing.

    Attributes:
        parameters: Parameters of the student by name.
        training: Function from parameters to the batch of the step with the student's outputs.
        held_out: The same for a batch of the validation part, with labels and without a teacher.
        learning_rate: Learning rate of the next step.
    """

    parameters: Mapping[str, Tensor]
    training: Callable[[Mapping[str, Tensor]], Batch]
    held_out: Callable[[Mapping[str, Tensor]], Batch]
    learning_rate: float


@runtime_checkable
class LooksAhead(Protocol):
    """Method that evaluates the student with other parameters before some steps."""

    @property
    def look_ahead_interval(self) -> int:
        """Return the interval of `look_ahead` calls in steps; 0 means never."""

    def look_ahead(self, ahead: LookAhead) -> None:
        """Evaluate the student beyond the next step; called before that step."""


@runtime_checkable
class PeerAware(Protocol):
    """Method whose students learn from each other's outputs."""

    @property
    def uses_peers(self) -> bool:
        """Return whether the students use each other's outputs; all workers must agree."""

    @property
    def updates_alternately(self) -> bool:
        """Return whether the students step in turn.

        Each one then uses the outputs of its predecessors after their step. Otherwise all step at
        once.
        """


@runtime_checkable
class WeightsSamples(Protocol):
    """Method that uses weights of the training samples, `Batch.weights`."""

    def weighting_plan(self, epochs: int) -> WeightingPlan:
        """Return the weighting of samples in a trial of `epochs` epochs.

        Raises:
            SettingsError: No weights would ever come into force.
        """


@runtime_checkable
class UsesMemoryBank(Protocol):
    """Method that retrieves training samples from a bank of outputs."""

    def bank_plan(self, epochs: int) -> BankPlan | None:
        """Return the source and the schedule of the bank in a trial of `epochs` epochs.

        The result is None if the settings use no bank.

        Raises:
            SettingsError: No bank would ever come into force.
        """

    def update_bank(self, knowledge: Knowledge) -> None:
        """Replace the bank, as planned by `bank_plan`; called after a resume, too."""

    @property
    def neighbours(self) -> Neighbours | None:
        """Return the current neighbours of the training part, for inspection; None without any."""


@runtime_checkable
class UpdatesTeacher(WeightsSamples, Protocol):
    """Method that weights samples, and trains the teacher whenever new weights come into force."""

    @property
    def teacher_lr(self) -> float:
        """Return the teacher's learning rate for its epoch of training; 0 means no training."""

    def teacher_loss(self, batch: Batch, progress: float) -> Tensor:
        """Return the objective of the teacher on a batch, ().

        Args:
            batch: `batch.student` is the teacher's output in training, `batch.teacher` its output
                before.
            progress: Decrease of the student's loss on its labels since the previous survey.
        """


@runtime_checkable
class UsesFeatureMaps(Protocol):
    """Method that uses feature maps of student and teacher, `Batch.student_maps` and so on.

    `prepare` receives their shapes in `Task`.
    """

    def select_stages(self, student: Sequence[str], teacher: Sequence[str]) -> FeatureStages:
        """Return the stages whose maps the method uses.

        Args:
            student: Names of all stages of the student, from the input to the output.
            teacher: Names of all stages of the teacher.

        Raises:
            SettingsError: The networks do not have the stages that the settings name.
        """


@runtime_checkable
class Plots(Protocol):
    """Method that displays its own distributions for a few samples of the validation part."""

    def class_distributions(self, batch: Batch) -> dict[str, Tensor]:
        """Return the distributions (B, K) to show, by name of their source."""

    def class_weights(self, batch: Batch) -> Tensor | None:
        """Return the factor for each of the teacher's classes, (B, K), 1 = unchanged.

        The result is None if the settings reweight no classes.
        """


CAPABILITIES: tuple[type, ...] = (
    LooksAhead,
    PeerAware,
    WeightsSamples,
    UsesMemoryBank,
    UpdatesTeacher,
    UsesFeatureMaps,
    Plots,
)


@lru_cache
def check_capabilities(kind: type[Method]) -> None:
    """Raise TypeError if a method implements only some members of a capability.

    It would not have the capability, and what it implements would be ignored.
    """
    for capability in CAPABILITIES:
        own = [name for name in vars(capability) if not name.startswith("_")]
        names = [name for base in capability.__mro__ for name in vars(base) if name[0] != "_"]
        missing = [name for name in names if not hasattr(kind, name)]
        if missing and any(hasattr(kind, name) for name in own):
            raise TypeError(
                f"{kind.__name__} implements a part of {capability.__name__}: add "
                f"{', '.join(missing)}"
            )


def uses_peers(method: Method) -> bool:
    """Return whether the students of a trial use each other's outputs; else they train alone."""
    return isinstance(method, PeerAware) and method.uses_peers


def updates_alternately(method: Method) -> bool:
    """Return whether the students step in turn."""
    return isinstance(method, PeerAware) and method.updates_alternately


def weighting_plan(method: Method, epochs: int) -> WeightingPlan | None:
    """Return the weighting of samples; None if all samples have the same weight."""
    return method.weighting_plan(epochs) if isinstance(method, WeightsSamples) else None


def bank_plan(method: Method, epochs: int) -> BankPlan | None:
    """Return the plan of the bank; None without a bank."""
    return method.bank_plan(epochs) if isinstance(method, UsesMemoryBank) else None


def uses_teacher_bank(method: Method, epochs: int) -> bool:
    """Return whether samples are retrieved from a bank of the teacher's outputs."""
    plan = bank_plan(method, epochs)
    return plan is not None and not plan.by_students


def teacher_lr(method: Method) -> float:
    """Return the learning rate of the teacher's training; 0 means no training."""
    return method.teacher_lr if isinstance(method, UpdatesTeacher) else 0.0
