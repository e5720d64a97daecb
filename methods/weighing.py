"""How the weights of the training samples are found: from a survey of the student, between two epochs. The contract, and its words.

Knows torch alone: nothing of who surveys, where that is computed, or what trains on.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor


class Part(NamedTuple):
    """What the student says of a whole part of the data, in its order: logits (n, K) and features (n, D) float32, labels (n,)."""

    logits: Tensor
    features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Surveyed:
    """The student itself, in eval mode, for who looks beyond its last layer.

    `parameters` by name; `logits(parameters, inputs)` (B, K) is its forward; `training` and `held_out` give the inputs of both
    parts in their order, block by block, anew at every call.
    """

    parameters: Mapping[str, Tensor]
    logits: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    training: Callable[[], Iterator[Tensor]]
    held_out: Callable[[], Iterator[Tensor]]


@dataclass(frozen=True)
class Survey:
    """A student between two epochs, before the clean view of the whole training part and the validation part.

    `teacher` (n, K) logits of the teacher in force, or None; `weights` (n,) those in force; `network` the student itself;
    `rates` (n,) of mean one how often each sample is drawn; `limit_bytes` what may be held beside these; `seed` for what is drawn;
    `before` what the survey before this one noted; `alive` is called now and then while something is computed, and may raise.
    """

    training: Part
    held_out: Part
    teacher: Tensor | None
    weights: Tensor
    rates: Tensor
    network: Surveyed
    limit_bytes: int
    seed: int
    before: Mapping[str, float] = field(default_factory=dict)
    alive: Callable[[], None] = lambda: None


class Weighed(NamedTuple):
    """New weights (n,) float32 of mean one over the samples that are weighed, 1 for the others; what they came of, (n,).

    A score above 0 is of a sample that does harm; NaN: it was not scored. `noted` is for the next survey; `tracked` and `notes`,
    sentences, are for a person.
    """

    weights: Tensor
    scores: Tensor
    noted: dict[str, float]
    tracked: dict[str, float]
    notes: tuple[str, ...] = ()


class Weighing(Protocol):
    """When the weights are found, and from when on they count."""

    @property
    def lag(self) -> int:
        """Epochs that are trained with the weights in force while new ones are computed; 0: the trainer waits for them."""

    @property
    def begins_anew_after(self) -> int | None:
        """Epochs after which the student begins anew, with the weights that were found then; None: it goes on."""

    def due(self, epoch: int) -> bool:
        """Whether weights are to be found after so many finished epochs."""

    def required_bytes(self, samples: int, classes: int, features: int, parameters: Mapping[str, Tensor]) -> int:
        """What `weigh` would hold beside data and network, for n samples, K classes, D features and a student of these shapes."""

    def weigh(self, survey: Survey) -> Weighed:
        """The weights that follow from a survey."""
