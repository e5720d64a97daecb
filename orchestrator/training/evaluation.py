"""The quality of the student on one part, the same number for any count of workers. Knows one network and its batches."""

from typing import Literal

import torch
from torch import Tensor

from orchestrator.context import TrialContext
from orchestrator.data import Batches
from orchestrator.training.learner import Learner
from orchestrator.training.metrics import Scores


@torch.no_grad()
def evaluate(
    learner: Learner, batches: Batches, part: Literal["train", "validation", "test"], context: TrialContext, teacher: Tensor | None
) -> tuple[dict[str, float], Tensor]:
    """Metrics of the student in eval mode, and its classes for this rank's share of the part.

    `teacher`: its classes for that share, for the agreement.
    """
    training = learner.training
    learner.eval()
    scores, seen, classes = Scores(context.device), 0, list[Tensor]()
    for batch in batches.ordered(part):
        with torch.autocast(context.device.type, learner.half_type or torch.bfloat16, enabled=learner.half_type is not None):
            logits = learner.student(batch.inputs).logits
        scores.add(logits, batch.labels, None if teacher is None else teacher[seen : seen + len(logits)])
        classes.append(logits.argmax(dim=1))
        seen += len(logits)
        context.alive()
    context.total(scores.sums)
    learner.train(training)
    return scores.metrics(agreement=teacher is not None), torch.cat(classes)
