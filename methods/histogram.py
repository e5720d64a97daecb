"""Histogram of values in [0, 1] over the samples of an epoch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

BINS = 20  # of equal width over [0, 1]


class Histogram(nn.Module):
    """Counts per bin that restart every epoch; each rank counts its own samples."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Tensor | None = None  # no buffer: DDP would broadcast those of rank 0

    def count(self, values: Tensor) -> None:
        """Count the values (B,) of a batch's samples."""
        counts = torch.histc(values.detach().float(), BINS, 0.0, 1.0)
        self.counts = counts if self.counts is None else self.counts + counts

    def shares(self, mean: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return the shares (BINS,) of the bins, with sum 1, and restart the counts.

        Args:
            mean: Mean of a tensor over the ranks.

        Returns:
            The shares, or None if nothing was counted.
        """
        if self.counts is None:
            return None
        counts, self.counts = mean(self.counts), None
        return counts / counts.sum()
