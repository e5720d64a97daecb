"""How values in [0, 1] are distributed over the samples of an epoch. Knows nothing of what the values mean."""

from collections.abc import Callable

import torch
from torch import Tensor

BINS = 20  # equal ones over [0, 1]
WEIGHT_RANGE = 4.0  # those of a histogram of weights are equal ones over [0, this]; the last one has all above too


class Histogram:
    """Counts that begin anew with every epoch; each rank has those of its own samples."""

    def __init__(self) -> None:
        self.counts: Tensor | None = None  # not a buffer: DDP would give every rank those of the first one

    def count(self, values: Tensor) -> None:
        """Values (B,) of the samples of a batch."""
        counts = torch.histc(values.detach().float(), BINS, 0.0, 1.0)
        self.counts = counts if self.counts is None else self.counts + counts

    def shares(self, mean: Callable[[Tensor], Tensor]) -> Tensor | None:
        """The shares (BINS,) of the bins, which sum to one, by the `mean` over the ranks; None where nothing was counted."""
        if self.counts is None:
            return None
        counts, self.counts = mean(self.counts), None
        return counts / counts.sum()
