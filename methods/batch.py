"""Batch that a method receives: network outputs, labels, and means over the global batch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from methods import losses


class Output(NamedTuple):
    """Output of a network for a batch: logits (B, K) and penultimate features (B, D)."""

    logits: Tensor
    features: Tensor


class Mix(NamedTuple):
    """Blending of a batch: the partners of its samples.

    Attributes:
        labels: (B,) int64 labels of the partners, -1 for unlabelled ones.
        share: (B,) float32 in [0, 1], weight of a sample's own label; the partner's label has the
            rest.
    """

    labels: Tensor
    share: Tensor


def single_rank_mean(value: Tensor) -> Tensor:
    """Return a tensor unchanged: its mean over the ranks, or their union, if there is one rank."""
    return value


@dataclass(frozen=True)
class Batch:
    """Inputs and outputs of one step; anything that `needs` does not request is None.

    A batch is one rank's part of a global batch, and all parts have B samples.

    Attributes:
        index: (B,) int64 positions in the training part.
        inputs: (B, ...) tensor or a dict of tensors.
        labels: (B,) int64, -1 for unlabelled samples.
        student: Output of the student.
        teacher: Output of the teacher.
        peers: Function that returns `peer_logits`.
        weights: (B,) sample weights with mean 1 over the training part.
        mix: Partners, if inputs are blended.
        mean: Mean of a tensor over the ranks; all ranks must call it together.
        all_labelled: All training samples have labels, so that labels need no count.
        student_maps: Feature maps of the student by stage, (B, C, H, W).
        teacher_maps: Feature maps of the teacher by stage, (B, C, H, W) float32 without a gradient.
        class_weights: (K,) weights of the classes in the cross entropy of the labels.
        ranks: Number of parts of the global batch.
    """

    index: Tensor
    inputs: Tensor | dict[str, Tensor]
    labels: Tensor
    student: Output
    teacher: Output | None = None
    peers: Callable[[], Tensor] | None = None
    weights: Tensor | None = None
    mix: Mix | None = None
    mean: Callable[[Tensor], Tensor] = single_rank_mean
    all_labelled: bool = False
    student_maps: Mapping[str, Tensor] = field(default_factory=dict)
    teacher_maps: Mapping[str, Tensor] = field(default_factory=dict)
    class_weights: Tensor | None = None
    ranks: int = 1

    def mean_over(self, values: Tensor, counted: Tensor) -> Tensor:
        """Return sum(values) over the ranks' mean of sum(counted), (); 0 if nothing counts.

        DDP averages gradients over the ranks. The average of this value is the mean over the
        counted samples of the global batch, however the samples are distributed over the ranks.

        Args:
            values: (B,) values to average, already multiplied by each sample's share in `counted`.
            counted: (B,) in [0, 1], share by which each sample counts.
        """
        return values.sum() / _nonzero(self.mean(counted.float().sum()))

    def mean_over_labels(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the mean of a loss of the labels over the global batch, (...), as in `mean_over`.

        Blended samples count by their shares.

        Args:
            loss: Function that returns values (B, ...) from labels (B,); 0 for a label -1.
        """
        values = loss(self.labels)
        if self.mix is not None:
            share = self.mix.share.view(-1, *[1] * (values.dim() - 1))
            values = share * values + (1 - share) * loss(self.mix.labels)
        return values.sum(dim=0) / _nonzero(self._labelled_count)

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over the ranks, with the gradient of this rank's value.

        DDP averages gradients over the ranks. A loss that is a function of such means, the same on
        all ranks, therefore has the gradient of the global batch. A value that is computed from
        another mean over the ranks must treat that one as a constant.
        """
        own = value.detach()
        return value + (self.mean(own) - own)

    def cross_entropy(self, label_smoothing: float = 0.0, logits: Tensor | None = None) -> Tensor:
        """Return the mean cross entropy over the labels of the global batch, (), as in `mean_over`.

        Blended samples count by their shares. With `class_weights` it is the weighted mean, the sum
        of w_y H(y, q) over the sum of w_y, as torch's `cross_entropy` with `weight`.

        Args:
            label_smoothing: Share of the target that is uniform over all classes.
            logits: (B, K) logits; None means those of the student.
        """
        if self._labels_count_equally:
            return self._mean_cross_entropy(label_smoothing, logits)
        total = self._cross_entropies(label_smoothing, logits, self.class_weights).sum()
        return total / _nonzero(self._label_weight)

    def unweighted_cross_entropy(self, label_smoothing: float, logits: Tensor) -> Tensor:
        """Return `cross_entropy` without class weights: for targets beyond the labels."""
        if self.all_labelled:
            return self._mean_cross_entropy(label_smoothing, logits)
        return self._cross_entropies(label_smoothing, logits).sum() / _nonzero(self._labelled_count)

    @property
    def labelled(self) -> Tensor:
        """Return the labelled share of the global batch, (); blended samples count by shares."""
        return self._labelled_count / len(self.labels)

    def cross_entropies(self) -> Tensor:
        """Return shares (B,) of the student's cross entropy; their mean is `cross_entropy()`."""
        total = self._cross_entropies(class_weights=self.class_weights)
        if self._labels_count_equally:
            return total
        return total / _nonzero(self._label_weight / len(self.labels))

    def _mean_cross_entropy(self, label_smoothing: float, logits: Tensor | None) -> Tensor:
        """Return the mean over the batch, (), in which all samples have labels of equal weight."""
        if self.mix is not None:
            return self._cross_entropies(label_smoothing, logits).mean()
        logits = self.student.logits if logits is None else logits
        return losses.mean_cross_entropy(logits, self.labels, label_smoothing)

    @property
    def _labels_count_equally(self) -> bool:
        return self.all_labelled and self.class_weights is None

    def _cross_entropies(
        self,
        label_smoothing: float = 0.0,
        logits: Tensor | None = None,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        logits = self.student.logits if logits is None else logits
        partners, share = self.mix or (None, None)
        return losses.cross_entropies(
            logits, self.labels, label_smoothing, partners, share, class_weights
        )

    @cached_property
    def _labelled_count(self) -> Tensor:
        """Return the labelled samples per rank, (), by their shares: a mean over the ranks."""
        if self.all_labelled:
            return self.labels.new_full((), len(self.labels), dtype=torch.float32)
        return self.mean(losses.labelled_shares(self.labels, *(self.mix or ())).sum())

    @cached_property
    def _label_weight(self) -> Tensor:
        """Return the weight of the labels per rank, (): their number without class weights."""
        if self.class_weights is None:
            return self._labelled_count
        partners, share = self.mix or (None, None)
        weights = losses.labelled_shares(self.labels, partners, share, self.class_weights)
        return self.mean(weights.sum())

    @property
    def peer_logits(self) -> Tensor:
        """Return the logits of the other students, (P, B, K) float32 without a gradient.

        The peers are in the order of their letters. Their logits may still be in transit, so read
        this property as late as possible.

        Raises:
            ValueError: The student has no peers.
        """
        if self.peers is None:
            raise ValueError(
                "this method needs a peer, but the trial has one student: configure `peers`, or "
                "train with kd"
            )
        return self.peers().detach()

    @property
    def teacher_logits(self) -> Tensor:
        """Return the teacher's logits (B, K) without a gradient.

        Raises:
            ValueError: The batch has no teacher.
        """
        return self._require_teacher().logits.detach()

    @property
    def teacher_features(self) -> Tensor:
        """Return the teacher's features (B, D) without a gradient.

        Raises:
            ValueError: The batch has no teacher.
        """
        return self._require_teacher().features.detach()

    def _require_teacher(self) -> Output:
        if self.teacher is None:
            raise ValueError(
                "this method needs a teacher, but none is configured: set `teacher`, or train with "
                "cross_entropy"
            )
        return self.teacher

    @property
    def map_pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return the pairs of feature maps of student and teacher, (B, C, H, W) float32.

        The pairs are in the order of the selected stages. The teacher's maps have no gradient.

        Raises:
            ValueError: The batch has no feature maps.
        """
        if not self.teacher_maps:
            raise ValueError(
                "this method needs feature maps of a teacher, but none is configured: set "
                "`teacher`, or train with cross_entropy"
            )
        pairs = zip(self.student_maps.values(), self.teacher_maps.values(), strict=True)
        return [(student.float(), teacher.detach().float()) for student, teacher in pairs]


def _nonzero(count: Tensor) -> Tensor:
    """Return the count, or 1 if it is 0; a quotient by it is then 0."""
    return count + (count == 0)
