"""Draw the contrast samples of a training sample, as a function of key, epoch and sample alone."""

import torch
from torch import Tensor, nn

# Increment and factors of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), as signed numbers.
_INCREMENT, *_FACTORS = (
    value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
_SHIFTS = (30, 27, 31)
_BITS = 53  # of a float64 in [0, 1)


class ContrastDraws(nn.Module):
    """Positives and negatives of training samples for a contrastive loss.

    The draws of a sample depend on the key, the epoch and its index, and not on the batch, the
    rank, the device or earlier draws. A key is drawn from torch's random numbers.

    The negatives of a sample are the samples of other classes. Their list, in the order of the
    classes, is cut into N equal strata, and one sample is drawn from each. Each sample of another
    class is thus expected N / m times, where m is their number, and is drawn at most twice if
    m >= N. An unlabelled sample is a class of its own.

    Args:
        labels: (n,) int64, -1 for unlabelled samples.
        negatives: N, negatives per sample.
        same_class: Whether the positive is drawn from the sample's class; otherwise it is the
            sample itself.
    """

    def __init__(self, labels: Tensor, negatives: int, same_class: bool) -> None:
        super().__init__()
        self.negatives, self.same_class = negatives, same_class
        order = labels.argsort(stable=True)
        ordered = labels[order]
        first = torch.searchsorted(ordered, labels)
        size = torch.searchsorted(ordered, labels, right=True) - first
        unlabelled = labels == -1
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        self.register_buffer("key", torch.randint(2**62, ()))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("first", torch.where(unlabelled, rank, first), persistent=False)
        self.register_buffer("size", size.masked_fill(unlabelled, 1), persistent=False)
        self.key: Tensor
        self.epoch: Tensor  # finished epochs
        self.order: Tensor  # (n,) samples in the order of their classes
        self.first: Tensor  # (n,) position in `order` of the first sample of each sample's class
        self.size: Tensor  # (n,) number of samples in each sample's class

    @torch.no_grad()
    def draw(self, index: Tensor) -> Tensor:
        """Return training samples (B, 1 + N): a positive, then the negatives.

        Args:
            index: (B,) training samples, of which none has the class of all others.
        """
        uniforms = uniform_numbers(
            _mix(_mix(self.key + self.epoch * _INCREMENT) + index * _INCREMENT), 1 + self.negatives
        )
        first, size = self.first[index, None], self.size[index, None]
        others = len(self.order) - size  # (B, 1)
        strata = torch.arange(self.negatives, device=index.device) + uniforms[:, 1:]
        position = (strata * (others.double() / self.negatives)).long().clamp(max=others - 1)
        position = position + size * (position >= first)
        negatives = self.order[position]
        if not self.same_class:
            return torch.cat([index[:, None], negatives], dim=1)
        positive = self.order[first + (uniforms[:, :1] * size).long()]
        return torch.cat([positive, negatives], dim=1)


def uniform_numbers(keys: Tensor, count: int) -> Tensor:
    """Return uniform numbers in [0, 1), (B, count) float64: SplitMix64 from each key (B,) int64."""
    steps = torch.arange(1, count + 1, device=keys.device)
    bits = _mix(keys[:, None] + steps * _INCREMENT)
    return _shift(bits, 64 - _BITS).double() * 2.0**-_BITS


def _mix(state: Tensor) -> Tensor:
    """Return the output of SplitMix64 for a state, modulo 2^64."""
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        state = (state ^ _shift(state, shift)) * factor
    return state ^ _shift(state, _SHIFTS[-1])


def _shift(value: Tensor, bits: int) -> Tensor:
    """Return an int64 shifted to the right as an unsigned number."""
    shifted: Tensor = (value >> bits) & (2 ** (64 - bits) - 1)
    return shifted
