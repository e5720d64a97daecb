"""Which samples are similar, approximately: negatives from an index of cells that a query looks into a few of. Knows no cache.

The only user of faiss, which is optional: it is imported when an index is made.
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

INSTALL = "install faiss-cpu (`pip install '.[approximate]'`), or set resources.retrieval=exact"
RECALL, SAMPLE = 0.95, 256  # cells are added until this share is found, of the negatives of so many queries
PER_CELL = 40  # samples that a cell's centre is learned from; faiss warns below 39
ROUNDS = 8
BLOCK_ROWS = 2**16
SEED = 0
IDENTITY = {"index": "IVFFlat", "recall": RECALL}  # what decides what is found
Floats = NDArray[np.float32]


def is_installed() -> bool:
    """Whether this process could make an index."""
    return importlib.util.find_spec("faiss") is not None


class FaissIndex:
    """Neighbours of queries among features (n, D) with labels (n,) of at least two classes: positives exact, negatives nearly.

    2 sqrt(n) cells; a query looks into so many of them that RECALL of the nearest negatives of SAMPLE queries are found, which is
    measured against an exact search: `recall`. Takes 4 n D bytes beside an exact search's. The query's class is excluded as a range
    of ids, which are places in the order of the classes. PreflightError without faiss.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, positives: int, negatives: int, alive: Callable[[], None] = lambda: None
    ) -> None:
        if not is_installed():
            raise PreflightError(
                f"approximate retrieval needs faiss, which is not installed where trials train: {INSTALL}",
                field="resources.retrieval",
                value="approximate",
                allowed=("exact",),
            )
        import faiss

        self.faiss: Any = faiss
        faiss.omp_set_num_threads(torch.get_num_threads())
        self.features, self.labels, self.negatives, self.alive = features, labels.cpu(), negatives, alive
        self.bank, self.positives = ByClass(features, labels), positives
        known = torch.nonzero(self.labels >= 0).flatten()
        self.order = known[self.labels[known].argsort(stable=True)]
        self.counts = torch.bincount(self.labels[known])
        self.ends = self.counts.cumsum(0)
        self.cells = max(min(round(2 * len(known) ** 0.5), len(known) // PER_CELL), 1)
        self.index = self._index()
        self.looks, self.recall = self._tuned()

    def __call__(self, queries: Tensor) -> Neighbours:
        """Those of the samples at `queries` (m,), on the CPU."""
        found = self.bank.nearest(self.positives, 0, queries, self.alive)
        negatives, similarity = self._negatives(queries.cpu(), self.looks)
        return Neighbours(found.positives.cpu(), negatives, found.positive_similarity.cpu(), similarity, self.recall)

    def _rows(self, places: Tensor) -> Floats:
        """Unit features of the samples at `places`."""
        rows: Floats = normalize(self.features[places.to(self.features.device)].float(), dim=1).cpu().numpy()
        return rows

    def _index(self) -> Any:
        faiss, columns = self.faiss, self.features.shape[1]
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(columns), columns, self.cells, faiss.METRIC_INNER_PRODUCT)
        index.cp.niter, index.cp.max_points_per_centroid, index.cp.seed = ROUNDS, PER_CELL, SEED
        index.train(self._rows(_spread(self.order, self.cells * PER_CELL)))
        for block in torch.split(self.order, BLOCK_ROWS):
            self.alive()
            index.add(self._rows(block))
        return index

    def _tuned(self) -> tuple[int, float]:
        """Into how many cells a query looks, and the share of the nearest negatives that is found so."""
        sample, looks = _spread(self.order, SAMPLE), 4
        truth = self.bank.nearest(0, self.negatives, sample.to(self.features.device), self.alive).negatives.cpu()
        while True:
            looks = min(2 * looks, self.cells)
            found, _ = self._negatives(sample, looks)
            share = recall(found, truth)
            if share >= RECALL or looks == self.cells:
                return looks, share

    def _negatives(self, queries: Tensor, looks: int) -> tuple[Tensor, Tensor]:
        """Positions and similarities (m, N); where so few cells hold too few of other classes, a query looks into all."""
        positions = torch.full((len(queries), self.negatives), -1, dtype=torch.int32)
        similarity = torch.zeros(len(queries), self.negatives)
        asked = self.labels[queries]
        for label in torch.unique(asked[asked >= 0]).tolist():
            self.alive()
            rows = torch.nonzero(asked == label).flatten()
            places, values = self._search(queries[rows], label, looks)
            short = places[:, -1] < 0
            if short.any() and len(self.order) - self.counts[label] > (places >= 0).sum(dim=1).min():
                places[short], values[short] = self._search(queries[rows[short]], label, self.cells)
            there = places >= 0
            positions[rows] = torch.where(there, self.order[places.clamp(min=0)], -1).int()
            similarity[rows] = torch.where(there, values, 0.0)
        return positions, similarity

    def _search(self, queries: Tensor, label: int, looks: int) -> tuple[Tensor, Tensor]:
        """Places in the order of the classes, and similarities, of the nearest that are not of the class."""
        faiss, end = self.faiss, int(self.ends[label])
        others = faiss.IDSelectorNot(faiss.IDSelectorRange(end - int(self.counts[label]), end))
        parameters = faiss.SearchParametersIVF(sel=others, nprobe=looks)
        values, places = self.index.search(self._rows(queries), self.negatives, params=parameters)
        return torch.from_numpy(places), torch.from_numpy(values)


def _spread(order: Tensor, count: int) -> Tensor:
    """So many of `order` at most, evenly spread over it, and so over the classes."""
    return order[torch.linspace(0, len(order) - 1, min(count, len(order))).round().long()]
