"""Test the distribution of values over an epoch's samples against a count by hand."""

import torch
from torch import Tensor

from methods.histogram import BINS, Histogram


def alone(values: Tensor) -> Tensor:
    return values


def test_shares_are_those_of_all_batches_and_the_ends_count() -> None:
    histogram = Histogram()
    histogram.count(torch.tensor([0.0, 0.01, 0.97, 1.0]))
    histogram.count(torch.tensor([0.51, 0.52, 0.53, 0.02], requires_grad=True))
    shares = histogram.shares(alone)
    assert shares is not None and shares.shape == (BINS,) == (20,) and not shares.requires_grad
    assert {place: round(8 * value) for place, value in enumerate(shares.tolist()) if value} == {
        0: 3,
        10: 3,
        19: 2,
    }
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0))


def test_counts_restart_every_epoch_and_empty_one_returns_none() -> None:
    histogram = Histogram()
    assert histogram.shares(alone) is None
    histogram.count(torch.zeros(3))
    histogram.shares(alone)
    assert histogram.shares(alone) is None
    histogram.count(torch.ones(3))
    shares = histogram.shares(alone)
    assert shares is not None and shares.tolist() == [0.0] * 19 + [1.0]


def test_shares_cover_all_ranks() -> None:
    mine, other = Histogram(), Histogram()
    mine.count(torch.full((6,), 0.12))
    other.count(torch.full((2,), 0.88))
    theirs = other.counts
    assert theirs is not None
    shares = mine.shares(lambda counts: (counts + theirs) / 2)
    assert shares is not None and shares[2] == 0.75 and shares[17] == 0.25
