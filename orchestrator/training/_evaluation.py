"""Evaluate the student on one part; the metrics do not depend on the number of workers."""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from orchestrator.core.context import TrialContext
from orchestrator.data.batches import Batches
from orchestrator.training._distillation_module import DistillationModule
from orchestrator.training.metrics import USER_METRICS, Scores

LARGEST_FACTOR = 16  # of the training batch
LARGEST_BYTES = 2**20  # of the inputs of a batch, which stay in the cache of a CPU
LARGEST_DEVICE_BYTES = 2**25


class Evaluation(NamedTuple):
    """The result of an evaluation.

    Attributes:
        metrics: The metrics by name.
        classes: The predicted classes of this rank's share.
        class_accuracies: The accuracy in each class (K,); NaN without samples.
    """

    metrics: dict[str, float]
    classes: Tensor
    class_accuracies: Tensor


@torch.no_grad()
def evaluate(
    distillation_module: DistillationModule,
    batches: Batches,
    part: Literal["train", "validation", "test"],
    context: TrialContext,
    teacher: Tensor | None,
) -> Evaluation:
    """Evaluate the student in eval mode.

    Args:
        distillation_module: The student, whose mode is restored afterwards.
        batches: The batches of this rank.
        part: The part of the data.
        context: The context of the ranks, which call this together.
        teacher: The teacher's classes for this rank's share, for the agreement; None without it.
    """
    training = distillation_module.training
    distillation_module.eval()
    scores = Scores(len(batches.dataset.classes), context.device)
    classes = list[Tensor]()
    outputs = list[tuple[Tensor, Tensor]]()  # kept for metrics of user code alone
    rest = teacher
    for batch in batches.iterate_in_order(part, size=_batch_size(batches)):
        logits = distillation_module.compute_output(batch).logits
        expected = None
        if rest is not None:
            expected, rest = rest.tensor_split([len(logits)])
        classes.append(scores.add(logits, batch.labels, expected))
        if USER_METRICS:
            outputs.append((logits.float().cpu(), batch.labels.cpu()))
        context.heartbeat()
    context.all_reduce_sum(scores.sums)
    distillation_module.train(training)
    metrics = scores.metrics(agreement=teacher is not None)
    if USER_METRICS:
        metrics |= _compute_user_metrics(outputs, context)
    return Evaluation(metrics, torch.cat(classes), scores.class_accuracies())


def _batch_size(batches: Batches) -> int:
    """Return the batch size of an evaluation.

    An evaluation keeps the activations of few layers, and a training step those of all. So its
    batches are larger where the inputs are small. Images that are decoded in other processes pass
    through shared memory of the size of a training batch.
    """
    training_size = batches.batch_size // batches.world_size
    if batches.dataset.root is not None:
        return training_size
    sample_bytes = 4 * math.prod(batches.dataset.shape)
    limit = LARGEST_BYTES if batches.device.type == "cpu" else LARGEST_DEVICE_BYTES
    return max(training_size, min(LARGEST_FACTOR * training_size, limit // sample_bytes))


def _compute_user_metrics(
    outputs: list[tuple[Tensor, Tensor]], context: TrialContext
) -> dict[str, float]:
    """Return the metrics of user code on the whole part, the same on all ranks.

    Args:
        outputs: Logits (B, K) and labels (B,) of the batches of this rank.
        context: The context of the ranks.
    """
    of_rank = [torch.cat(tensors) for tensors in zip(*outputs, strict=True)]
    # the blocks of the ranks are contiguous; that of a small part may be empty
    blocks = [block for block in context.all_gather_object(of_rank) if block]
    logits, labels = (torch.cat(tensors) for tensors in zip(*blocks, strict=True))
    with torch.random.fork_rng(devices=[]):  # a metric does not change the random state
        return {name: metric.compute(logits, labels) for name, metric in USER_METRICS.items()}
