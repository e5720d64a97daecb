"""Collect training samples for display, and those retrieved for a few of them."""

import numpy as np
import torch
from torch import Tensor

from methods.retrieval import Neighbours
from orchestrator.data import pictures
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.teacher.ensemble import AnyTeacher

NUM_QUERIES = 5  # training samples with stored neighbours
NUM_NEIGHBOURS = 5  # of a query, positives and as many negatives


def collect_samples(dataset: Dataset, name: str, index: Tensor) -> dict[str, Tensor]:
    """Return training samples (S,) for display.

    Args:
        dataset: The data.
        name: The name of the result.
        index: Their positions in the training part (S,).

    Returns:
        The positions as `name`, the clean images (S, H, W, C) uint8 as `name_images`, the given
        labels as `name_labels`, -1 for none, and the labels before any noise as `name_truths`.
    """
    positions = index.numpy()
    inputs, root = dataset.train.inputs, dataset.root
    if root is None:
        images = torch.from_numpy(np.asarray(inputs)[positions])
    else:
        images = next(pictures.decode(root, inputs, [positions], dataset.shape[1], None, 0, False))
    labels, truths = (
        torch.from_numpy(np.asarray(values)[positions])
        for values in (dataset.train.labels, dataset.clean_labels)
    )
    return {
        name: index,
        f"{name}_images": images,
        f"{name}_labels": labels,
        f"{name}_truths": truths,
    }


def collect_retrieved(
    neighbours: Neighbours, teacher: AnyTeacher | None, batches: Batches
) -> dict[str, Tensor]:
    """Return a few training samples with their most similar retrieved samples.

    The queries are evenly spaced among those for which something was retrieved.

    Returns:
        `queries` (Q,), `positives` and `negatives` (Q, at most 5), positions in the training part,
        -1 for none, with `positive_similarity` and `negative_similarity`. All of them once are the
        `samples` of the name `retrieved` (S,). With a teacher, `retrieved_classes` (S,) are its
        classes on the clean view. The result is empty if nothing was retrieved.
    """
    sides = (neighbours.positives, neighbours.negatives)
    with_neighbours = (
        torch.cat([side[:, :1] >= 0 for side in sides], dim=1).any(dim=1).nonzero().flatten().cpu()
    )
    if not len(with_neighbours):
        return {}
    queries = with_neighbours[
        torch.linspace(
            0, len(with_neighbours) - 1, min(NUM_QUERIES, len(with_neighbours)), dtype=torch.float64
        ).long()
    ]
    result = {
        name: rows[queries.to(rows.device), :NUM_NEIGHBOURS].cpu()
        for name, rows in zip(
            ("positives", "negatives", "positive_similarity", "negative_similarity"),
            neighbours[:4],
            strict=True,
        )
    }
    result |= {"queries": queries}
    positions = np.unique(
        np.concatenate(
            [result[name].numpy().ravel() for name in ("queries", "positives", "negatives")]
        )
    )
    positions = positions[positions >= 0].astype(np.int64)
    result |= collect_samples(batches.dataset, "retrieved", torch.from_numpy(positions))
    if teacher is not None:
        teacher_classes = [
            teacher(inputs.inputs).logits.argmax(dim=1).cpu()
            for inputs in batches.select_samples("train", positions)
        ]
        result["retrieved_classes"] = torch.cat(teacher_classes)
    return result
