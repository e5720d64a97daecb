"""Evaluate the student on one part; the metrics do not depend on the number of workers."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from orchestrator.core.context import TrialContext
from orchestrator.data.batches import Batches
from orchestrator.training._distillation_module import DistillationModule
from orchestrator.training.metrics import USER_METRICS, Scores


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
    num_done = 0
    classes = list[Tensor]()
    outputs = list[tuple[Tensor, Tensor]]()  # kept for metrics of user code alone
    for batch in batches.iterate_in_order(part):
        logits = distillation_module.compute_output(batch).logits
        scores.add(
            logits,
            batch.labels,
            None if teacher is None else teacher[num_done : num_done + len(logits)],
        )
        classes.append(logits.argmax(dim=1))
        if USER_METRICS:
            outputs.append((logits.float().cpu(), batch.labels.cpu()))
        num_done += len(logits)
        context.heartbeat()
    context.all_reduce_sum(scores.sums)
    distillation_module.train(training)
    metrics = scores.metrics(agreement=teacher is not None)
    if USER_METRICS:
        metrics |= _compute_user_metrics(outputs, context)
    return Evaluation(metrics, torch.cat(classes), scores.class_accuracies())


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
