"""Exact retrieval of the nearest samples of the same class and of other classes."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_BYTES = 1 << 25  # of similarities held at once
BANK_BYTES = 1 << 28  # of float32 unit features held at once
LEAST_ROWS = 128  # fewest queries per block, if there are as many: a wider bank is split
GROUP = 16  # columns per group, reduced to their maximum first


class Neighbours(NamedTuple):
    """Most similar samples of each of n queries, most similar first.

    A query without a label has no neighbours.

    Attributes:
        positives: (n, P) int32 positions of the query's class, never the query itself; -1 = none.
        negatives: (n, N) int32 positions of other classes; -1 = none.
        positive_similarity: (n, P) float32 cosines, 0 where there is none.
        negative_similarity: (n, N) float32 cosines, 0 where there is none.
        recall: Share of the true nearest negatives that an approximate index found; 1 for an exact
            search.
    """

    positives: Tensor
    negatives: Tensor
    positive_similarity: Tensor
    negative_similarity: Tensor
    recall: float = 1.0


def nearest(
    features: Tensor,
    labels: Tensor,
    positives: int,
    negatives: int,
    members: Tensor | None = None,
    queries: Tensor | None = None,
    heartbeat: Callable[[], None] = lambda: None,
) -> Neighbours:
    """Return the exact neighbours by cosine similarity.

    Features of length zero have similarity 0 to all others. Of equally similar samples, the one
    with the lower position comes first. Positives alone cost O(n^2 / K) for K classes.

    Args:
        features: (n, D) features of any type.
        labels: (n,) labels, -1 for unlabelled samples.
        positives: Neighbours of the same class per query.
        negatives: Neighbours of other classes per query.
        members: (n,) bool, samples that can be retrieved; None means all.
        queries: (m,) positions of the queries; None means all samples.
        heartbeat: Function called before each block of queries.
    """
    return ByClass(features, labels, members).nearest(positives, negatives, queries, heartbeat)


def recall(found: Tensor, exact: Tensor) -> float:
    """Return the share of the exact neighbours (n, k) that are among those found (n, k').

    Both are positions, -1 = none. The result is 1 if there are no exact neighbours.
    """
    rows = max(1, BLOCK_BYTES // max(1, found.shape[1] * exact.shape[1]))
    hits = [
        ((block[:, None, :] == expected[:, :, None]).any(2) & (expected != -1)).sum()
        for block, expected in zip(torch.split(found, rows), torch.split(exact, rows), strict=True)
    ]
    known = int((exact != -1).sum())
    return int(torch.stack(hits).sum()) / known if known else 1.0


class ByClass:
    """Labelled members of a bank, ordered by class, so that a class is a range of columns.

    `order` (members,) is the position of each column.
    """

    @torch.no_grad()
    def __init__(self, features: Tensor, labels: Tensor, members: Tensor | None = None) -> None:
        self.features, self.labels = features, labels
        member_positions = (
            (labels != -1 if members is None else members & (labels != -1)).nonzero().squeeze(1)
        )
        self.order = member_positions[labels[member_positions].argsort(stable=True)]
        self._column = torch.full_like(labels, -1)
        self._column[self.order] = torch.arange(len(self.order), device=labels.device)
        wide = 4 * max(1, features.shape[1])
        self._columns = max(1, min(BLOCK_BYTES // (4 * LEAST_ROWS), BANK_BYTES // wide))
        self._unit = self._units(self.order) if len(self.order) * wide <= BANK_BYTES else None

    @torch.no_grad()
    def nearest(
        self,
        positives: int,
        negatives: int,
        queries: Tensor | None = None,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> Neighbours:
        """Return the exact neighbours in this bank, as the function `nearest` does.

        Use it for queries block by block.
        """
        labels = self.labels
        queries = torch.arange(len(labels), device=labels.device) if queries is None else queries
        tables = []
        for width in (positives, negatives):
            tables.append(
                torch.full((len(queries), width), -1, dtype=torch.int32, device=labels.device)
            )
            tables.append(torch.zeros(len(queries), width, device=labels.device))
        for chosen, start, stop in self.blocks(queries, len(self.order) if negatives else None):
            heartbeat()
            for (positions, similarity), ranges in (
                (tables[:2], [(start, stop)]),
                (tables[2:], [(0, start), (stop, len(self.order))]),
            ):
                if positions.shape[1]:
                    _store(
                        chosen,
                        _find_best(self, queries[chosen], ranges, positions.shape[1]),
                        positions,
                        similarity,
                    )
        return Neighbours(tables[0], tables[2], tables[1], tables[3])

    def blocks(
        self, queries: Tensor, columns: int | None = None
    ) -> Iterator[tuple[Tensor, int, int]]:
        """Yield blocks of labelled queries (m,) of one class.

        Args:
            queries: (m,) positions of the queries.
            columns: Number of columns to compare with each block; None means those of its class.

        Yields:
            Indices into the m queries, and the range (start, stop) of their class.
        """
        labels, sorted_labels = self.labels[queries], self.labels[self.order]
        labelled_queries = (labels != -1).nonzero().squeeze(1)
        labelled_queries = labelled_queries[labels[labelled_queries].argsort(stable=True)]
        classes, counts = torch.unique_consecutive(labels[labelled_queries], return_counts=True)
        starts = torch.searchsorted(sorted_labels, classes).tolist()
        stops = torch.searchsorted(sorted_labels, classes, right=True).tolist()
        for of_class, start, stop in zip(
            torch.split(labelled_queries, counts.tolist()), starts, stops, strict=True
        ):
            wide = stop - start if columns is None else columns
            for chosen in torch.split(of_class, max(LEAST_ROWS, BLOCK_BYTES // (4 * max(1, wide)))):
                yield chosen, start, stop

    def similarities(
        self, queries: Tensor, start: int, stop: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the similarities of queries (R,) to a range of columns, part by part.

        Yields:
            Positions (C,) of the columns, and cosines (R, C), -inf for a query with itself.
        """
        query_units, column = self._units(queries), self._column[queries]
        for left in range(start, stop, self._columns):
            right = min(left + self._columns, stop)
            positions = self.order[left:right]
            column_units = self._units(positions) if self._unit is None else self._unit[left:right]
            with torch.autocast(query_units.device.type, enabled=False):
                cosines = query_units @ column_units.T
            self_queries = ((column >= left) & (column < right)).nonzero().squeeze(1)
            cosines[self_queries, column[self_queries] - left] = -torch.inf
            yield positions, cosines

    def _units(self, positions: Tensor) -> Tensor:
        features = self.features[positions].float()
        return features.div_(
            torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp_(min=1e-12)
        )


def _store(
    chosen: Tensor, best: tuple[Tensor, Tensor] | None, positions: Tensor, similarity: Tensor
) -> None:
    if best is None:
        return
    cosines, nearest_positions = best
    present, width = cosines != -torch.inf, cosines.shape[1]
    positions[chosen, :width] = torch.where(present, nearest_positions, -1).to(positions.dtype)
    similarity[chosen, :width] = torch.where(present, cosines, 0).clamp_(-1, 1)


def _find_best(
    bank: ByClass, queries: Tensor, ranges: list[tuple[int, int]], count: int
) -> tuple[Tensor, Tensor] | None:
    """Return similarities (R, k) and positions of the k <= count nearest in all ranges.

    The result is None if the ranges are empty.
    """
    best: tuple[Tensor, Tensor] | None = None
    for start, stop in ranges:
        for positions, cosines in bank.similarities(queries, start, stop):
            columns = _top_columns(cosines, positions, count)
            candidates = cosines.gather(1, columns), positions[columns]
            if best is not None:
                candidates = (
                    torch.cat([best[0], candidates[0]], 1),
                    torch.cat([best[1], candidates[1]], 1),
                )
            best = _rank(*candidates, count)
    return best


def _rank(values: Tensor, positions: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the first `count` columns of each row by falling value, then by rising position."""
    by_position = positions.argsort(1)
    values, by_value = values.gather(1, by_position).sort(dim=1, descending=True, stable=True)
    return values[:, :count], positions.gather(1, by_position.gather(1, by_value))[:, :count]


def _top_columns(values: Tensor, positions: Tensor, count: int) -> Tensor:
    """Return the columns of the `count` largest values of each row (R, C), in no order.

    Of equal values those with the lowest positions `positions` (C,) are chosen.
    """
    if count >= values.shape[1]:
        return torch.arange(values.shape[1], device=values.device).expand(values.shape)
    columns = _topk_columns(values, count + 1)
    top_values = values.gather(1, columns)
    columns, edge = columns[:, :-1].contiguous(), top_values[:, -2:-1]
    tied = (edge == top_values[:, -1:]).squeeze(1).nonzero().squeeze(1)
    if len(tied):
        tied_values, edge = values[tied], edge[tied]
        rank = torch.where(
            tied_values == edge, -positions.to(torch.int32), torch.iinfo(torch.int32).min
        )
        columns[tied] = _topk_columns(rank.masked_fill_(tied_values > edge, 1), count)
    return columns


def _topk_columns(values: Tensor, count: int) -> Tensor:
    """Return the columns of the `count` largest values of each row (R, C), largest first.

    They lie in the `count` groups of columns with the largest maxima, or in the few columns outside
    any group.
    """
    groups, rest = divmod(values.shape[1], GROUP)
    if groups < 4 * count:
        return values.topk(count, 1).indices
    grouped = values[:, : groups * GROUP].view(-1, GROUP, groups)
    best = grouped.amax(1).topk(count, 1, sorted=False).indices
    columns = (
        best[:, :, None] + torch.arange(0, groups * GROUP, groups, device=values.device)
    ).flatten(1)
    tail = torch.arange(groups * GROUP, groups * GROUP + rest, device=values.device)
    columns = torch.cat([columns, tail.expand(len(values), -1)], 1)
    return columns.gather(1, values.gather(1, columns).topk(count, 1).indices)
