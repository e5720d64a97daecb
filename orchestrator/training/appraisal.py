"""What the training samples are worth to a student, computed from a snapshot of it: the same code beside the trainer and within it.

Knows torch, the data and the method; not who asks, nor when the weights come into force.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]


@dataclass(frozen=True)
class Snapshot:
    """A student after `epoch` finished epochs, as it travels: tensors on the CPU, the specification as JSON values.

    `teacher` is the state of one that the trial has changed, else None; `weights` (n,) are those in force.
    """

    spec: dict[str, Any]
    letter: str
    epoch: int
    student: State
    weights: Tensor
    teacher: State | None = None
    before: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Appraised:
    """The answer: weights and scores (n,) float32 on the CPU, what is noted and tracked, and what it cost."""

    epoch: int
    weights: Tensor
    scores: Tensor
    noted: dict[str, float]
    tracked: dict[str, float]
    seconds: float
    cpu_seconds: float


def appraise(snapshot: Snapshot, device: torch.device, alive: Callable[[], None] = lambda: None) -> Appraised:
    """Survey the student of the snapshot and let its method weigh the samples."""
    raise NotImplementedError
