"""What a finished student has to show beside its metrics: who says what of a few validation samples. Draws nothing."""

import torch
from torch import Tensor

from orchestrator.data import Batches
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.training.learner import Learner

SAMPLES = 6  # whose distributions are kept
WEIGHED = 2048  # validation samples over which the weights of the classes are averaged, at most


@torch.no_grad()
def shown(learner: Learner, teacher: FrozenTeacher | None, batches: Batches) -> dict[str, Tensor]:
    """`labels` (S,), distributions (S, K) by name, and `class_weights` (K, K) where the method has them: row = true class.

    A class without a sample has a row of NaN. In eval mode; the learner is left as it was.
    """
    training = learner.training
    learner.eval()
    found: dict[str, Tensor] = {}
    classes = len(batches.dataset.classes)
    sums, counts = torch.zeros(classes, classes), torch.zeros(classes)
    for inputs in batches.some("validation", WEIGHED):
        batch = learner.seen(inputs, teacher(inputs.inputs) if teacher else None)
        if not found:
            found = {"labels": batch.labels[:SAMPLES].cpu()}
            found |= {name: rows[:SAMPLES].float().cpu() for name, rows in learner.method.show(batch).items()}
        weights = learner.method.class_weights(batch)
        if weights is None:
            break
        sums.index_add_(0, batch.labels.cpu(), weights.float().cpu())
        counts += torch.bincount(batch.labels.cpu(), minlength=classes)
    learner.train(training)
    return found | ({"class_weights": sums / counts[:, None]} if counts.any() else {})
