"""Exchange logits between the students of a trial that share one process.

Students in separate processes use the exchange that `TrialContext.pair` creates. In a step, every
student publishes its logits, then each receives those of the others. If students update in turn,
a student that has stepped publishes again, for the students after it. All students see the same
batches, so positions and shapes always agree.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from orchestrator.core.context import Exchange, TrialContext


class Colocated:
    """All students in this process: a single one, or several of a trial that has one worker."""

    def __init__(self, context: TrialContext, count: int) -> None:
        self.context, self.count, self.local_positions = context, count, tuple(range(count))
        self.latest_logits: dict[int, Tensor] = {}

    def publish(self, position: int, logits: Tensor, in_turn: bool) -> None:
        """Store the logits of a student."""
        self.latest_logits[position] = logits

    def republish(self, position: int, logits: Tensor) -> None:
        """Replace the logits of a student."""
        self.latest_logits[position] = logits

    def receive(self, position: int) -> Callable[[], Tensor]:
        """Return a function that returns the latest logits of the other students (P, B, K)."""
        return lambda: torch.stack(
            [self.latest_logits[other] for other in self.local_positions if other != position]
        )

    def end_step(self) -> None:
        """Do nothing: no message is in transit."""

    def take_wait_seconds(self) -> float:
        """Return 0: nothing waits."""
        return 0.0


def build_exchange(context: TrialContext, students: int) -> Exchange:
    """Return the exchange between the students of this trial.

    Args:
        context: The context of the trial.
        students: Number of students.
    """
    if students == 1 or context.world_size == 1:
        return Colocated(context, students)
    assert context.pair is not None, "several workers with several students need a pair"
    return context.pair(context, students)
