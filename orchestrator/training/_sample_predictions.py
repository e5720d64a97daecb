"""What a finished student has to show beside its metrics: who says what of a few samples, and what was retrieved.

Draws nothing.
"""

import numpy as np
import torch
from torch import Tensor

from methods.retrieval import Neighbours
from orchestrator.data import pictures
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.training._distillation_module import DistillationModule

SAMPLES = 6  # whose distributions are kept
WEIGHED = 2048  # validation samples over which the weights of the classes are averaged, at most
QUERIES = 5  # training samples whose neighbours are kept
NEIGHBOURS = 5  # of a query, positives and as many negatives


@torch.no_grad()
def sample_predictions(learner: DistillationModule, teacher: FrozenTeacher | None, batches: Batches) -> dict[str, Tensor]:
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


def samples(dataset: Dataset, name: str, index: Tensor) -> dict[str, Tensor]:
    """Training samples (S,) as a person sees them, under `name`: their places, the clean pictures (S, H, W, C) uint8 as
    `name_images`, the labels as given as `name_labels`, -1 for none, and those before any noise as `name_truths`.
    """
    places = index.numpy()
    inputs, root = dataset.train.inputs, dataset.root
    if root is None:
        images = torch.from_numpy(np.asarray(inputs)[places])
    else:
        images = next(pictures.decode(root, inputs, [places], dataset.shape[1], None, 0, False))
    labels, truths = (torch.from_numpy(np.asarray(given)[places]) for given in (dataset.train.labels, dataset.clean_labels))
    return {name: index, f"{name}_images": images, f"{name}_labels": labels, f"{name}_truths": truths}


def retrieved(neighbours: Neighbours, teacher: FrozenTeacher | None, batches: Batches) -> dict[str, Tensor]:
    """A few training samples for which something was retrieved, evenly spaced, and the most similar of that; nothing without any.

    `queries` (Q,), `positives` and `negatives` (Q, 5 at most) are places in the training part, -1 = none, beside
    `positive_similarity` and `negative_similarity`. All of them once are the `samples` of the name `retrieved` (S,), with
    `retrieved_classes` (S,), the teacher's on the clean view, where there is one.
    """
    sides = (neighbours.positives, neighbours.negatives)
    known = torch.cat([side[:, :1] >= 0 for side in sides], dim=1).any(dim=1).nonzero().flatten().cpu()
    if not len(known):
        return {}
    queries = known[torch.linspace(0, len(known) - 1, min(QUERIES, len(known)), dtype=torch.float64).long()]
    found = {
        name: rows[queries.to(rows.device), :NEIGHBOURS].cpu()
        for name, rows in zip(("positives", "negatives", "positive_similarity", "negative_similarity"), neighbours[:4], strict=True)
    }
    found |= {"queries": queries}
    places = np.unique(np.concatenate([found[name].numpy().ravel() for name in ("queries", "positives", "negatives")]))
    places = places[places >= 0].astype(np.int64)
    found |= samples(batches.dataset, "retrieved", torch.from_numpy(places))
    if teacher is not None:
        said = [teacher(inputs.inputs).logits.argmax(dim=1).cpu() for inputs in batches.chosen("train", places)]
        found["retrieved_classes"] = torch.cat(said)
    return found
