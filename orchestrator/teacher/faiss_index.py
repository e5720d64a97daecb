"""Retrieve similar samples approximately: a query probes a few cells of a faiss index.

No other module uses faiss. It is optional, and imported when an index is created.
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from methods.retrieval import ByClass, Neighbours, recall
from orchestrator.core.errors import PreflightError
from orchestrator.core.program import install_command

INSTALL = (
    f"install faiss-cpu (`{install_command('approximate')}`), or set resources.retrieval=exact"
)
# probed cells are added until this share of the nearest negatives of so many queries is found
RECALL, SAMPLE = 0.95, 256
PER_CELL = 40  # training samples per cell centre; faiss warns below 39
ROUNDS = 8
BLOCK_ROWS = 2**16
SEED = 0
IDENTITY = {"index": "IVFFlat", "recall": RECALL}  # determines the result
Floats = NDArray[np.float32]


def is_installed() -> bool:
    """Return whether this process could create an index."""
    return importlib.util.find_spec("faiss") is not None


class FaissIndex:
    """Neighbours of queries among labelled features: positives exact, negatives approximate.

    The index has 2 sqrt(n) cells, or fewer so that each has `PER_CELL` samples on average. A query
    probes enough cells to find `RECALL` of the nearest negatives of `SAMPLE` queries. `recall` is
    this share, measured against an exact search. The index takes 4 n D bytes in addition to the
    memory of an exact search. A range of ids, which are places in the order of the classes,
    excludes the query's class.

    Args:
        features: (n, D).
        labels: (n,), of at least two classes.
        positives: Number of neighbours of the query's class.
        negatives: Number of neighbours of other classes.
        heartbeat: Sends a heartbeat; called between blocks of work.

    Raises:
        PreflightError: faiss is not installed.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        positives: int,
        negatives: int,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> None:
        if not is_installed():
            raise PreflightError(
                f"resources.retrieval = approximate needs faiss, which is not installed on the "
                f"workers: {INSTALL}"
            ).with_details("resources.retrieval", "approximate", ("exact",))
        import faiss

        self.faiss: Any = faiss
        faiss.omp_set_num_threads(torch.get_num_threads())
        self.features = features
        self.labels = labels.cpu()
        self.negatives = negatives
        self.heartbeat = heartbeat
        self.bank, self.positives = ByClass(features, labels), positives
        known = torch.nonzero(self.labels >= 0).flatten()
        self.order = known[self.labels[known].argsort(stable=True)]
        self.counts = torch.bincount(self.labels[known])
        self.ends = self.counts.cumsum(0)
        self.cells = max(min(round(2 * len(known) ** 0.5), len(known) // PER_CELL), 1)
        self.index = self._build_index()
        self.probes, self.recall = self._tune_probes()

    def __call__(self, queries: Tensor) -> Neighbours:
        """Return the neighbours of the samples at `queries` (m,), on the CPU."""
        neighbours = self.bank.nearest(self.positives, 0, queries, self.heartbeat)
        negatives, similarity = self._negatives(queries.cpu(), self.probes)
        return Neighbours(
            neighbours.positives.cpu(),
            negatives,
            neighbours.positive_similarity.cpu(),
            similarity,
            self.recall,
        )

    def _rows(self, places: Tensor) -> Floats:
        """Return the unit features of the samples at `places`."""
        rows: Floats = (
            normalize(self.features[places.to(self.features.device)].float(), dim=1).cpu().numpy()
        )
        return rows

    def _build_index(self) -> Any:
        faiss, columns = self.faiss, self.features.shape[1]
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(columns), columns, self.cells, faiss.METRIC_INNER_PRODUCT
        )
        index.cp.niter, index.cp.max_points_per_centroid, index.cp.seed = ROUNDS, PER_CELL, SEED
        index.train(self._rows(_spread(self.order, self.cells * PER_CELL)))
        for block in torch.split(self.order, BLOCK_ROWS):
            self.heartbeat()
            index.add(self._rows(block))
        return index

    def _tune_probes(self) -> tuple[int, float]:
        """Return the number of cells that a query probes, and the recall of negatives."""
        sample, probes = _spread(self.order, SAMPLE), 4
        truth = self.bank.nearest(
            0, self.negatives, sample.to(self.features.device), self.heartbeat
        ).negatives.cpu()
        while True:
            probes = min(2 * probes, self.cells)
            negatives, _ = self._negatives(sample, probes)
            share = recall(negatives, truth)
            if share >= RECALL or probes == self.cells:
                return probes, share

    def _negatives(self, queries: Tensor, probes: int) -> tuple[Tensor, Tensor]:
        """Return positions and similarities (m, N).

        If the probed cells hold too few samples of other classes, a query probes all cells.
        """
        positions = torch.full((len(queries), self.negatives), -1, dtype=torch.int32)
        similarity = torch.zeros(len(queries), self.negatives)
        query_labels = self.labels[queries]
        for label in torch.unique(query_labels[query_labels >= 0]).tolist():
            self.heartbeat()
            rows = torch.nonzero(query_labels == label).flatten()
            places, values = self._search(queries[rows], label, probes)
            incomplete = places[:, -1] < 0
            if (
                incomplete.any()
                and len(self.order) - self.counts[label] > (places >= 0).sum(dim=1).min()
            ):
                places[incomplete], values[incomplete] = self._search(
                    queries[rows[incomplete]], label, self.cells
                )
            present = places >= 0
            positions[rows] = torch.where(present, self.order[places.clamp(min=0)], -1).int()
            similarity[rows] = torch.where(present, values, 0.0)
        return positions, similarity

    def _search(self, queries: Tensor, label: int, probes: int) -> tuple[Tensor, Tensor]:
        """Return the nearest samples of other classes.

        Returns:
            Their places in the order of the classes, and their similarities.
        """
        faiss, class_end = self.faiss, int(self.ends[label])
        other_classes = faiss.IDSelectorNot(
            faiss.IDSelectorRange(class_end - int(self.counts[label]), class_end)
        )
        parameters = faiss.SearchParametersIVF(sel=other_classes, nprobe=probes)
        values, places = self.index.search(self._rows(queries), self.negatives, params=parameters)
        return torch.from_numpy(places), torch.from_numpy(values)


def _spread(order: Tensor, count: int) -> Tensor:
    """Return at most `count` elements, evenly spread over `order` and so over the classes."""
    return order[torch.linspace(0, len(order) - 1, min(count, len(order))).round().long()]
