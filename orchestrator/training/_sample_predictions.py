"""Collect a finished student's predictions on a few samples, and what was retrieved for others."""

import numpy as np
import torch
from torch import Tensor

from methods.retrieval import Neighbours
from orchestrator.data import pictures
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.training._distillation_module import DistillationModule

SAMPLES = 6  # number of samples whose distributions are kept
WEIGHED = 2048  # validation samples over which the weights of the classes are averaged, at most
QUERIES = 5  # training samples whose neighbours are kept
NEIGHBOURS = 5  # of a query, positives and as many negatives


@torch.no_grad()
def sample_predictions(
    learner: DistillationModule, teacher: FrozenTeacher | None, batches: Batches
) -> dict[str, Tensor]:
    """Return predictions on samples of the validation part, in eval mode.

    The learner is left as it was.

    Returns:
        `labels` (S,), distributions (S, K) by name and, if the method has them, `class_weights`
        (K, K), whose rows are true classes. A class without a sample has a row of NaN.
    """
    training = learner.training
    learner.eval()
    found: dict[str, Tensor] = {}
    classes = len(batches.dataset.classes)
    sums, counts = torch.zeros(classes, classes), torch.zeros(classes)
    for inputs in batches.spaced_samples("validation", WEIGHED):
        batch = learner.seen(inputs, teacher(inputs.inputs) if teacher else None)
        if not found:
            found = {"labels": batch.labels[:SAMPLES].cpu()}
            found |= {
                name: rows[:SAMPLES].float().cpu()
                for name, rows in learner.method.class_distributions(batch).items()
            }
        weights = learner.method.class_weights(batch)
        if weights is None:
            break
        sums.index_add_(0, batch.labels.cpu(), weights.float().cpu())
        counts += torch.bincount(batch.labels.cpu(), minlength=classes)
    learner.train(training)
    return found | ({"class_weights": sums / counts[:, None]} if counts.any() else {})


def samples(dataset: Dataset, name: str, index: Tensor) -> dict[str, Tensor]:
    """Return training samples (S,) for display.

    Args:
        dataset: The data.
        name: The name of the result.
        index: Their places in the training part (S,).

    Returns:
        The places as `name`, the clean images (S, H, W, C) uint8 as `name_images`, the given labels
        as `name_labels`, -1 for none, and the labels before any noise as `name_truths`.
    """
    places = index.numpy()
    inputs, root = dataset.train.inputs, dataset.root
    if root is None:
        images = torch.from_numpy(np.asarray(inputs)[places])
    else:
        images = next(pictures.decode(root, inputs, [places], dataset.shape[1], None, 0, False))
    labels, truths = (
        torch.from_numpy(np.asarray(given)[places])
        for given in (dataset.train.labels, dataset.clean_labels)
    )
    return {
        name: index,
        f"{name}_images": images,
        f"{name}_labels": labels,
        f"{name}_truths": truths,
    }


def retrieved(
    neighbours: Neighbours, teacher: FrozenTeacher | None, batches: Batches
) -> dict[str, Tensor]:
    """Return a few training samples with the most similar samples that were retrieved for them.

    The queries are evenly spaced among those for which something was retrieved.

    Returns:
        `queries` (Q,), `positives` and `negatives` (Q, at most 5), places in the training part, -1
        for none, with `positive_similarity` and `negative_similarity`. All of them once are the
        `samples` of the name `retrieved` (S,). With a teacher, `retrieved_classes` (S,) are its
        classes on the clean view. The result is empty if nothing was retrieved.
    """
    sides = (neighbours.positives, neighbours.negatives)
    known = (
        torch.cat([side[:, :1] >= 0 for side in sides], dim=1).any(dim=1).nonzero().flatten().cpu()
    )
    if not len(known):
        return {}
    queries = known[
        torch.linspace(0, len(known) - 1, min(QUERIES, len(known)), dtype=torch.float64).long()
    ]
    found = {
        name: rows[queries.to(rows.device), :NEIGHBOURS].cpu()
        for name, rows in zip(
            ("positives", "negatives", "positive_similarity", "negative_similarity"),
            neighbours[:4],
            strict=True,
        )
    }
    found |= {"queries": queries}
    places = np.unique(
        np.concatenate(
            [found[name].numpy().ravel() for name in ("queries", "positives", "negatives")]
        )
    )
    places = places[places >= 0].astype(np.int64)
    found |= samples(batches.dataset, "retrieved", torch.from_numpy(places))
    if teacher is not None:
        said = [
            teacher(inputs.inputs).logits.argmax(dim=1).cpu()
            for inputs in batches.select_samples("train", places)
        ]
        found["retrieved_classes"] = torch.cat(said)
    return found
