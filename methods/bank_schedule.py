"""Schedule of a memory bank that students fill during training."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BankSchedule:
    """Source and schedule of a bank with logits and features of each training sample.

    The method receives the bank after an epoch, as `Knowledge`.

    Attributes:
        source: `own`: outputs of this student. `peers`: outputs of the other students, that is the
            mean of their logits and their concatenated unit features. The inner product of the
            latter is the mean of the peers' cosine similarities.
        fill: `epoch`: by the weights after the epoch. `ema`: by their exponential moving average,
            updated once per training step. Both use eval mode on the clean view. `momentum`: by
            training outputs, blended entry by entry.
        momentum: Share of the old entry (momentum), or of the average (ema), that each blend keeps.
        queue: Number of samples, those drawn last in the epoch, that can be retrieved; 0 means all.
        first: Finished epochs before the first bank; every later epoch builds a new one.
    """

    source: Literal["own", "peers"]
    fill: Literal["epoch", "ema", "momentum"]
    momentum: float
    queue: int
    first: int

    def is_due(self, epoch: int, epochs: int) -> bool:
        """Return whether a bank is built after `epoch` of `epochs` epochs: never after the last."""
        return self.first <= epoch < epochs
