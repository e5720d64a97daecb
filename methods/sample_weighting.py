"""Contract for sample weights, computed from a survey of the student between two epochs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor


class Part(NamedTuple):
    """Student's outputs for a whole part of the data, in its order.

    Attributes:
        logits: (n, K) float32.
        features: (n, D) float32.
        labels: (n,).
    """

    logits: Tensor
    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class SurveyedNetwork:
    """Student itself, in eval mode, for estimators that use more than its last layer.

    Attributes:
        parameters: Parameters by name.
        logits: Forward pass `logits(parameters, inputs)`, (B, K).
        training: Function that returns the inputs of the training part in order, block by block.
        held_out: The same for the validation part. Every call of either starts again.
    """

    parameters: Mapping[str, Tensor]
    logits: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    training: Callable[[], Iterator[Tensor]]
    held_out: Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class StudentSurvey:
    """Student between two epochs: its outputs on the clean training part and the validation part.

    Attributes:
        training: Outputs on the whole training part.
        held_out: Outputs on the validation part.
        teacher: (n, K) logits of the current teacher, or None.
        weights: (n,) current weights.
        rates: (n,) relative frequency of each sample in training, with mean one.
        network: Student itself.
        limit_bytes: Memory that may be used in addition.
        seed: Seed of random choices.
        before: Values noted by the previous survey.
        heartbeat: Function called from time to time during computation; it may raise.
    """

    training: Part
    held_out: Part
    teacher: Tensor | None
    weights: Tensor
    rates: Tensor
    network: SurveyedNetwork
    limit_bytes: int
    seed: int
    before: Mapping[str, float] = field(default_factory=dict)
    heartbeat: Callable[[], None] = lambda: None


class WeightingResult(NamedTuple):
    """New weights and the scores behind them.

    Attributes:
        weights: (n,) float32, with mean one over the weighted samples and 1 for the others.
        scores: (n,), above 0 for a harmful sample, NaN if it was not scored.
        noted: Values for the next survey.
        tracked: Numbers to track, for people.
        notes: Sentences for people.
    """

    weights: Tensor
    scores: Tensor
    noted: dict[str, float]
    tracked: dict[str, float]
    notes: tuple[str, ...] = ()


class WeightingPlan(Protocol):
    """Schedule and computation of sample weights."""

    @property
    def lag(self) -> int:
        """Return the epochs trained with the current weights while new ones are computed.

        With 0 the trainer waits for the new weights.
        """

    @property
    def restarts_after(self) -> int | None:
        """Return the epochs after which the student restarts with the weights computed then.

        With None the student is never restarted.
        """

    def is_due(self, epoch: int) -> bool:
        """Return whether weights are due after `epoch` finished epochs."""

    def required_bytes(
        self, samples: int, classes: int, features: int, parameters: Mapping[str, Tensor]
    ) -> int:
        """Return the bytes that `weigh` needs in addition to data and network.

        Args:
            samples: n, training samples.
            classes: K, classes.
            features: D, features.
            parameters: Parameters of the student, for their shapes.
        """

    def weigh(self, survey: StudentSurvey) -> WeightingResult:
        """Return the weights that follow from a survey."""
