"""When a bank that students fill while they are trained is made anew, and out of what. The contract, and its words.

Knows no tensor: who fills it, and what is looked up in it, is said elsewhere.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class BankSchedule:
    """A bank with an entry, logits and features, for each training sample; the method gets it after an epoch, as `Knowledge`.

    source    own: what this student says; peers: what the others say: the mean of their logits, their unit features side by
              side, whose inner product is the mean of their cosine similarities
    fill      epoch: of the weights after the epoch; ema: of their exponential moving average, one step a training step, both
              in eval mode on the clean view; momentum: of what is said in training, blended entry by entry
    momentum  what stays of the old entry, or of the average, at each blend (ema, momentum)
    queue     only the samples that were drawn last in the epoch, so many of them, can be retrieved; 0: all
    first     finished epochs after which the first bank is made; there is a new one after each epoch from then on
    """

    source: Literal["own", "peers"]
    fill: Literal["epoch", "ema", "momentum"]
    momentum: float
    queue: int
    first: int

    def due(self, epoch: int, epochs: int) -> bool:
        """Whether a bank is made after so many finished epochs of all `epochs`: not after the last one, which nobody would use."""
        return self.first <= epoch < epochs
