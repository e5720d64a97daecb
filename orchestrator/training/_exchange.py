"""How the students of a trial hear one another. Here all of them are in one process; `cluster/_pair.py` has each in its own.

A step: every student `tells` its logits, then each asks what the `others` say. Where students step in turn, one that has
stepped `tells_anew`, and those after it hear that. All students see the same batches, so positions and shapes always agree.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from orchestrator.core.context import Exchange, TrialContext


class Colocated:
    """All students in this process: the only one, or several of a trial that has one worker."""

    def __init__(self, context: TrialContext, count: int) -> None:
        self.context, self.count, self.own = context, count, tuple(range(count))
        self.said: dict[int, Tensor] = {}

    def tell(self, position: int, logits: Tensor, in_turn: bool) -> None:
        """Keep it."""
        self.said[position] = logits

    def tell_anew(self, position: int, logits: Tensor) -> None:
        """Keep it instead."""
        self.said[position] = logits

    def others(self, position: int) -> Callable[[], Tensor]:
        """Those of the other students that were told last."""
        return lambda: torch.stack([self.said[other] for other in self.own if other != position])

    def end_step(self) -> None:
        """Nothing travels."""

    def waited(self) -> float:
        """Nobody waits."""
        return 0.0


def exchange_of(context: TrialContext, students: int) -> Exchange:
    """How so many students of this trial hear one another, given who runs it."""
    if students == 1 or context.world_size == 1:
        return Colocated(context, students)
    assert context.pair is not None, "several workers with several students need a pair"
    return context.pair(context, students)
