"""Base of the components, which serve the capabilities of a method in the training loop."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from methods import Method, Output
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import Exchange, TrialContext
from orchestrator.data.batches import Batches
from orchestrator.data.passes import Inputs
from orchestrator.training._clock import Clock
from orchestrator.training._student import TrainedStudent
from orchestrator.training._trial_metrics import Metrics
from orchestrator.training._trial_teacher import TrialTeacher
from orchestrator.training.checkpoint import ComponentState as ComponentState
from orchestrator.training.checkpoint import State as State
from orchestrator.training.cost import TrialCost

C = TypeVar("C", bound="Component")


@dataclass(frozen=True)
class Step:
    """Inputs of a training step.

    Attributes:
        number: Number of the step in its epoch, from 0.
        batch: Inputs and labels.
        teacher_output: The teacher's outputs, if the method uses them.
        progress: Epochs trained before the step, with a fraction.
    """

    number: int
    batch: Inputs
    teacher_output: Output | None
    progress: float


@dataclass(frozen=True)
class RunningTrial:
    """A trial in training, in one of its processes.

    Attributes:
        spec: The specification.
        context: The context of all ranks of the trial.
        exchange: The exchange between the students; its context has the ranks of the replicas.
        batches: The batches of this rank.
        students: The students of this process.
        teacher: The teacher; None without one.
        clock: Time of the epoch by part.
        cost: Cost of the trial.
        components: The components, in order.
    """

    spec: TrialSpec
    context: TrialContext
    exchange: Exchange
    batches: Batches
    students: list[TrainedStudent]
    teacher: TrialTeacher | None
    clock: Clock
    cost: TrialCost
    components: "list[Component]" = field(default_factory=list)

    @property
    def configuration(self) -> Configuration:
        """Return the configuration."""
        return self.spec.configuration

    @property
    def method(self) -> Method:
        """Return the method of the first student; every student has its own of this kind."""
        return self.students[0].method

    def restart(self, student: TrainedStudent) -> None:
        """Restart a student with its initial weights."""
        student.restart()
        for component in self.components:
            component.on_restart(student)

    def find_component(self, kind: type[C]) -> C:
        """Return the component of a kind, which the trial has."""
        return next(each for each in self.components if isinstance(each, kind))


class Component:
    """Part of the training loop for one capability; every hook does nothing here.

    A component serves all students of its process. All ranks of a trial have the same components
    and call each hook together, in the order of `COMPONENTS`; the first rank of a student alone
    calls `state_dict` and `collect_samples`.

    Attributes:
        name: Name of its state in a checkpoint.
        trial: The trial.
    """

    name: ClassVar[str] = ""

    def __init__(self, trial: RunningTrial) -> None:
        self.trial = trial

    @classmethod
    def serves(cls, method: Method, epochs: int) -> bool:
        """Return whether a trial of `epochs` epochs with this method has the component."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Set up the students after their methods are prepared; called before a resume, too."""

    def on_epoch_start(self, epoch: int) -> None:
        """Act before an epoch; `epoch` epochs have finished."""

    def on_restart(self, student: TrainedStudent) -> None:
        """Act after a student restarted with its initial weights."""

    def on_step_start(self, step: Step) -> None:
        """Act before the students step."""

    def on_student_step(self, student: TrainedStudent, step: Step) -> None:
        """Act after a student has stepped, and before the next one does."""

    def on_step_end(self) -> None:
        """Act after all students of this process have stepped."""

    def epoch_values(self, student: TrainedStudent) -> dict[str, float | Tensor]:
        """Return values of the finished epoch, before `on_epoch_end`.

        Numbers are metrics. Arrays are kept, one per epoch, for the figures of the trial.
        """
        return {}

    def on_epoch_end(self, epoch: int) -> dict[str, Metrics]:
        """Act after `epoch` finished epochs; return metrics by the letter of the student."""
        return {}

    def collect_samples(self, student: TrainedStudent) -> State:
        """Return samples to display after the last epoch; called by the student's first rank."""
        return {}

    def take_notes(self) -> list[str]:
        """Return the messages for users since the last call, the same on every rank."""
        return []

    def state_dict(self, student: TrainedStudent) -> ComponentState:
        """Return the state that a resume needs for a student; called by its first rank alone."""
        return ComponentState({})

    def find_misfit(self, student: TrainedStudent, saved: ComponentState) -> str:
        """Return why a saved state does not fit; "" if it fits. Nothing changes."""
        return ""

    def load_state_dict(self, saved: Mapping[str, ComponentState], epoch: int) -> None:
        """Restore states by the letter of the student, saved after `epoch` finished epochs.

        The students, of which `saved` has those of other processes as well, are restored before.
        """


class StepHooks:
    """Hooks of a step that the components of a trial implement; others are not called."""

    def __init__(self, components: Sequence[Component]) -> None:
        def implemented(name: str) -> list[Any]:
            base = getattr(Component, name)
            return [
                getattr(component, name)
                for component in components
                if getattr(type(component), name) is not base
            ]

        self.on_step_start: list[Callable[[Step], None]] = implemented("on_step_start")
        self.on_student_step: list[Callable[[TrainedStudent, Step], None]] = implemented(
            "on_student_step"
        )
        self.on_step_end: list[Callable[[], None]] = implemented("on_step_end")
