"""Which samples are similar: exact retrieval of the nearest samples of the same class and of the nearest ones of other classes.

Pure torch. Knows features, labels and logits; no method, no cache and no training loop.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Neighbours(NamedTuple):
    """The samples that are most similar to each of n queries, most similar first: positions (n, P) and (n, N) int32, -1 = none.

    `positives` are of the query's class and never the query itself, `negatives` of other classes; the similarities are cosines,
    (n, P) and (n, N) float32, 0 where there is none. A query without a label has none of both. `recall` is the share of the true
    nearest negatives that an approximate index found; 1 for an exact search.
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
    alive: Callable[[], None] = lambda: None,
) -> Neighbours:
    """The exact neighbours among features (n, D) with labels (n,), -1 = without label, by cosine similarity.

    `members` (n,) bool: those that can be retrieved, None = all; `queries` (m,): whose neighbours are wanted, None = all's.
    """
    raise NotImplementedError
