"""Warm-up of the weight of a term, linear over the first epochs of a trial."""

import torch
from torch import Tensor, nn


class WarmUp(nn.Module):
    """Factor of a term, which grows from epoch to epoch up to 1.

    In epoch e of E (1 is the first) it is (e - d) / L with the length L = share E and the delay d,
    up to 1. With L < 1 there is no warm-up. The factor is a tensor, because a compiled step would
    be compiled again for each number. It is not saved: a resume sets it.

    Args:
        share: Length L as a share of the epochs.
        delay: d; 1 to start with the factor 0.
    """

    factor: Tensor

    def __init__(self, share: float, delay: int = 0) -> None:
        super().__init__()
        self.share, self.delay = share, delay
        self.register_buffer("factor", torch.ones((), dtype=torch.float64), persistent=False)

    def start(self, epoch: int, epochs: int) -> None:
        """Set the factor to that of an epoch."""
        self.factor.fill_(self.factor_in(epoch, epochs))

    def end_epoch(self, epoch: int, epochs: int) -> float:
        """Return the factor of the finished epoch, and set that of the next one."""
        self.start(epoch + 1, epochs)
        return self.factor_in(epoch, epochs)

    def factor_in(self, epoch: int, epochs: int) -> float:
        """Return the factor in an epoch, the first of which is 1."""
        length = self.share * epochs
        return min((epoch - self.delay) / length, 1.0) if length >= 1 else 1.0
