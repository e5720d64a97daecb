"""Define what a method sees of a step: what networks give for a batch, and means over the samples of it that count."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from methods import losses


class Output(NamedTuple):
    """What a network says about a batch: logits (B, K) and penultimate features (B, D)."""

    logits: Tensor
    features: Tensor


class Mix(NamedTuple):
    """With whom the samples of a batch were blended: `labels` (B,) int64 of the partners, -1 where unlabelled.

    `share` (B,) float32 in [0, 1] is the weight of a sample's own label; its partner's has the rest.
    """

    labels: Tensor
    share: Tensor


def alone(value: Tensor) -> Tensor:
    """Return the mean of a tensor over the ranks, where there is one."""
    return value


@dataclass(frozen=True)
class Batch:
    """Everything a method may look at; what it did not ask for in `needs` is None.

    index (B,) int64 positions in the training part; inputs (B, ...) or a dict of tensors; labels (B,) int64, -1
    where unlabelled; peers gives the `peer_logits`; weights (B,) of mean one over the training part; mix where inputs are blended.
    A batch is one rank's part of a global batch, and all parts have B samples: `mean` gives the mean of a tensor over the ranks,
    which call it together. `all_labelled`: every sample of the training part has a label, so that nobody has to count them.
    """

    index: Tensor
    inputs: Tensor | dict[str, Tensor]
    labels: Tensor
    student: Output
    teacher: Output | None = None
    peers: Callable[[], Tensor] | None = None
    weights: Tensor | None = None
    mix: Mix | None = None
    mean: Callable[[Tensor], Tensor] = alone
    all_labelled: bool = False

    def mean_over(self, values: Tensor, counted: Tensor) -> Tensor:
        """Return sum(values) over the ranks' mean of sum(counted), a scalar; 0 where nothing counts on any rank.

        The mean of this over the ranks, which is what DDP makes of its gradient, is that of the samples of the global batch that
        count, however they are dealt out.

        Args:
            values: (B,) what is averaged, times how much each sample counts.
            counted: (B,) in [0, 1], how much each sample counts.
        """
        return values.sum() / _nonzero(self.mean(counted.float().sum()))

    def cross_entropy(self, label_smoothing: float = 0.0, logits: Tensor | None = None) -> Tensor:
        """Return the mean cross entropy over the labels of the global batch, as in `mean_over`: by its share where blended.

        Of the student's logits, or of others (B, K).
        """
        return self._cross_entropies(label_smoothing, logits).sum() / _nonzero(self._labelled_count)

    @property
    def labelled(self) -> Tensor:
        """The share of the samples of the global batch that have a label, (); of blended ones their shares."""
        return self._labelled_count / len(self.labels)

    def cross_entropies(self) -> Tensor:
        """The samples' shares of the student's cross entropy, (B,): their mean is `cross_entropy()`."""
        return self._cross_entropies() / _nonzero(self.labelled)

    def _cross_entropies(self, label_smoothing: float = 0.0, logits: Tensor | None = None) -> Tensor:
        logits = self.student.logits if logits is None else logits
        return losses.cross_entropies(logits, self.labels, label_smoothing, *(self.mix or ()))

    @cached_property
    def _labelled_count(self) -> Tensor:
        """The labelled samples of a rank, (), by their shares: the mean over the ranks."""
        if self.all_labelled:
            return self.labels.new_full((), len(self.labels), dtype=torch.float32)
        return self.mean(losses.labelled_shares(self.labels, *(self.mix or ())).sum())

    @property
    def peer_logits(self) -> Tensor:
        """What the other students say, (P, B, K) float32 without a gradient, in the order of their letters; ValueError without any.

        They may still be on their way: ask as late as possible.
        """
        if self.peers is None:
            raise ValueError("this method needs a peer, and the student is alone: configure `peers`, or train with kd")
        return self.peers().detach()

    @property
    def teacher_logits(self) -> Tensor:
        """The teacher's logits (B, K) without a gradient; ValueError where the loop brought no teacher."""
        if self.teacher is None:
            raise ValueError("this method needs a teacher, and the batch has none: set `teacher`, or train with cross_entropy")
        return self.teacher.logits.detach()


def _nonzero(count: Tensor) -> Tensor:
    """The count, or 1 where it is 0: what is divided by it is 0 then."""
    return count + (count == 0)
