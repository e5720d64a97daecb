"""Pearson correlations between two sets of distributions, over classes and over a global batch.

All are computed in float64.
"""

import torch
from torch import Tensor

from methods.batch import Batch

# Added to the product of two standard deviations: constant values have correlation 0. The released
# code of DIST adds 1e-8 to a product of norms, the same for 100 values.
LEAST_PRODUCT = 1e-10
LEAST_VARIANCE = 1e-30  # below it the gradient of the standard deviation is 0, not infinite


def correlate_classes(first: Tensor, second: Tensor) -> Tensor:
    """Return the correlation over the classes of each sample, (B,), of probabilities (B, K)."""
    pair = torch.stack([first.double(), second.double()])
    centred = pair - pair.mean(dim=2, keepdim=True)
    return _correlation(_products(centred).mean(dim=2))


def correlate_samples(first: Tensor, second: Tensor, batch: Batch) -> Tensor:
    """Return the correlation over the global batch of each class, (K,), of probabilities (B, K).

    The probabilities are those of this rank's samples. The ranks exchange 5 K numbers, so that
    value and gradient are those of one rank with the whole batch.
    """
    pair = torch.stack([first.double(), second.double()])
    # without a gradient: central moments do not change with the centre
    centred = pair - batch.mean(pair.detach().mean(dim=1))[:, None]
    return _correlation(batch.mean_over_ranks(_products(centred).mean(dim=1)))


def _products(centred: Tensor) -> Tensor:
    """Return the products of both values and their squares, (3, ...), of a pair (2, ...)."""
    first, second = centred
    return torch.stack([first * second, first.square(), second.square()])


def _correlation(moments: Tensor) -> Tensor:
    """Return the correlation (...) from the covariance and both variances (3, ...)."""
    deviations = moments[1:].clamp(min=LEAST_VARIANCE).sqrt()
    return moments[0] / (deviations.prod(dim=0) + LEAST_PRODUCT)
