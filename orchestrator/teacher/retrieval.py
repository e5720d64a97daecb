"""Retrieve the nearest samples of every training sample once, and cache them for later trials."""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from methods import Knowledge
from methods.retrieval import ByClass, Neighbours
from orchestrator.core import disk
from orchestrator.core.context import TrialContext
from orchestrator.data.memory import map_array
from orchestrator.teacher._rank_shared_files import Files, RankSharedFiles
from orchestrator.teacher.cache import Lock
from orchestrator.teacher.faiss_index import IDENTITY, FaissIndex

QUERIES = 2048  # per rank between two checks for a stop request
TABLES = {
    "positives": torch.int32,
    "negatives": torch.int32,
    "positive_similarity": torch.float32,
    "negative_similarity": torch.float32,
}


class Retrieval:
    """Retrieval of neighbours on the device of the context, as `Knowledge.find`.

    The ranks share the work, and call it together. Results stay in memory for the next student.

    Args:
        context: The context of the ranks.
        approximate: Whether to retrieve negatives approximately.
        sharing: Caches the results, in a file for each table and one for the recall; None to cache
            nothing.
        about: The identity of the features. It determines the folder in the cache, together with
            the labels, the numbers of neighbours and the kind of retrieval.
    """

    def __init__(
        self,
        context: TrialContext,
        approximate: bool,
        sharing: RankSharedFiles | None = None,
        about: dict[str, Any] | None = None,
    ) -> None:
        self.context = context
        self.approximate = approximate
        self.sharing = sharing
        self.about = about or {}
        self.results: dict[tuple[int, int], Neighbours] = {}

    def __call__(self, knowledge: Knowledge, positives: int, negatives: int) -> Neighbours:
        """Return neighbours of each sample's class, and of other classes.

        Args:
            knowledge: Features and labels, of a bank without restricted members.
            positives: Number of neighbours of the same class.
            negatives: Number of neighbours of other classes.

        Raises:
            PreflightError: As `RankSharedFiles.open`.
            Stopped: As `RankSharedFiles.open`.
        """
        assert knowledge.members is None, "results for a bank that changes are not cached"
        key = (positives, negatives)
        if key not in self.results:
            find = self._search if self.sharing is None else partial(self._cached, self.sharing)
            self.results[key] = find(knowledge, *key)
        return self.results[key]

    def _cached(
        self, sharing: RankSharedFiles, knowledge: Knowledge, positives: int, negatives: int
    ) -> Neighbours:
        files = self._files(sharing, knowledge.labels, positives, negatives)
        arrays, _ = sharing.open(
            files, partial(self._compute, sharing, knowledge, positives, negatives)
        )
        tables = {
            name: map_array(arrays[name]).to(self.context.device)
            if name in arrays
            else torch.empty(len(knowledge.labels), 0, dtype=kind, device=self.context.device)
            for name, kind in TABLES.items()
        }
        return Neighbours(**tables, recall=float(arrays["recall"][0, 0]))

    def _files(
        self, sharing: RankSharedFiles, labels: Tensor, positives: int, negatives: int
    ) -> Files:
        """Return the files of the tables that have columns, and of the recall."""
        folder = sharing.cache.folder(
            {
                **self.about,
                "labels": hashlib.sha256(labels.cpu().numpy().tobytes()).hexdigest(),
                "positives": positives,
                "negatives": negatives,
                "retrieval": IDENTITY if self.approximate else "exact",
            }
        )
        names = [
            name for name in TABLES if (positives if name.startswith("positive") else negatives)
        ]
        return {name: folder / f"{name}.npy" for name in (*names, "recall")}

    def _compute(
        self,
        sharing: RankSharedFiles,
        knowledge: Knowledge,
        positives: int,
        negatives: int,
        missing: Files,
        locks: list[Lock],
    ) -> None:
        results = self._search(knowledge, positives, negatives, locks)
        disk.raise_on_all_ranks(
            self.context,
            partial(_write, sharing, missing, results),
            sharing.cache.root,
            partial(_update_heartbeats, locks),
        )

    def _search(
        self, knowledge: Knowledge, positives: int, negatives: int, locks: Sequence[Lock] = ()
    ) -> Neighbours:
        """Return the results of all ranks, on every rank.

        The queries are distributed in the order of their classes.
        """
        context, labels = self.context, knowledge.labels.to(self.context.device)
        assert knowledge.features is not None, (
            "a method that retrieves neighbours must set `Needs.bank`"
        )
        features = knowledge.features.to(context.device)

        def heartbeat() -> None:
            context.heartbeat()
            for lock in locks:
                lock.update_heartbeat()

        find_neighbours: Callable[..., Neighbours]
        if self.approximate and negatives:
            find_neighbours = FaissIndex(features, labels, positives, negatives, heartbeat)
        else:
            find_neighbours = partial(
                ByClass(features, labels).nearest, positives, negatives, heartbeat=heartbeat
            )
        order = labels.argsort(stable=True)
        size = min(QUERIES, -(-len(order) // context.world_size))
        blocks: dict[str, list[Tensor]] = {name: [] for name in TABLES}
        recall = 1.0
        for start in range(
            context.rank * size, len(order) + context.rank * size, size * context.world_size
        ):
            places = torch.arange(start, start + size, device=context.device).clamp(
                max=len(order) - 1
            )
            results = find_neighbours(queries=order[places])
            for name, block in blocks.items():
                block += context.all_gather(getattr(results, name).to(context.device))
            recall = results.recall
            context.raise_if_stopped()
        tables = {name: torch.cat(block)[: len(order)] for name, block in blocks.items()}
        by_sample = {
            name: torch.empty_like(table).index_copy_(0, order, table)
            for name, table in tables.items()
        }
        return Neighbours(**by_sample, recall=min(context.all_gather_object(recall)))


def _update_heartbeats(locks: list[Lock]) -> None:
    for lock in locks:
        lock.update_heartbeat()


def _write(sharing: RankSharedFiles, missing: Files, results: Neighbours) -> None:
    tables = {**results._asdict(), "recall": torch.tensor([[results.recall]])}
    for name, file in missing.items():
        rows = tables[name].cpu().numpy()
        with sharing.cache.writer(file, len(rows), rows.shape[1], str(rows.dtype)) as writer:
            writer.add(rows)
            writer.finish()
