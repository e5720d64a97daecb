"""Plan of a memory bank: its source, its schedule, and what is retrieved from it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BankPlan:
    """Plan of a bank with logits and features of each training sample.

    The method receives the bank as `Knowledge`: that of the teacher before the first step, one that
    students fill after an epoch.

    Attributes:
        source: `teacher`: the teacher's outputs on the clean view, computed once. `own`: outputs of
            this student. `peers`: outputs of the other students, that is the mean of their logits
            and their concatenated unit features. The inner product of the latter is the mean of the
            peers' cosine similarities.
        positives: Number of samples of the same class to retrieve for each sample; 0 means none.
        negatives: Number of samples of other classes; 0 means none.
        fill: How students fill the bank. `epoch`: by the weights after the epoch. `ema`: by their
            exponential moving average, updated once per training step. Both use eval mode on the
            clean view. `momentum`: by training outputs, blended entry by entry.
        momentum: Share of the old entry (momentum), or of the average (ema), that each blend keeps.
        queue: Number of samples, those drawn last in the epoch, that can be retrieved; 0 means all.
        first: Finished epochs before students fill the first bank; every later epoch builds a new
            one.
    """

    source: Literal["teacher", "own", "peers"]
    positives: int
    negatives: int
    fill: Literal["epoch", "ema", "momentum"] = "epoch"
    momentum: float = 0.0
    queue: int = 0
    first: int = 0

    @property
    def by_students(self) -> bool:
        """Return whether students fill the bank in training."""
        return self.source != "teacher"

    def is_due(self, epoch: int, epochs: int) -> bool:
        """Return whether students fill a bank after `epoch` of `epochs`: never after the last."""
        return self.by_students and self.first <= epoch < epochs
