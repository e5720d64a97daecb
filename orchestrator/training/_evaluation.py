"""The quality of the student on one part, the same number for any count of workers. Knows one network and its batches."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from orchestrator.core.context import TrialContext
from orchestrator.data.batches import Batches
from orchestrator.training._distillation_module import DistillationModule
from orchestrator.training.metrics import Scores


class Evaluated(NamedTuple):
    """Metrics by name, the predicted `classes` of this rank's share, and the accuracy in each class (K,), NaN without samples."""

    metrics: dict[str, float]
    classes: Tensor
    class_accuracies: Tensor


@torch.no_grad()
def evaluate(
    learner: DistillationModule,
    batches: Batches,
    part: Literal["train", "validation", "test"],
    context: TrialContext,
    teacher: Tensor | None,
) -> Evaluated:
    """The quality of the student in eval mode; `teacher`: its classes for this rank's share of the part, for the agreement."""
    training = learner.training
    learner.eval()
    scores, seen, classes = Scores(len(batches.dataset.classes), context.device), 0, list[Tensor]()
    for batch in batches.ordered(part):
        logits = learner.speak(batch).logits
        scores.add(logits, batch.labels, None if teacher is None else teacher[seen : seen + len(logits)])
        classes.append(logits.argmax(dim=1))
        seen += len(logits)
        context.alive()
    context.total(scores.sums)
    learner.train(training)
    return Evaluated(scores.metrics(agreement=teacher is not None), torch.cat(classes), scores.class_accuracies())
