"""From scores of training samples to their weights, and how well scores tell samples apart.

Knows torch alone: nothing of where scores come from. A score above 0 is of a sample that does harm.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

SIGNS = ("correct", "released")
CLIPPED_SHARE = 0.01  # of the scores at either end


def _sigmoid(scores: Tensor, sharpness: float) -> Tensor:
    return functional.logsigmoid(-sharpness * scores / (scores.max() - scores.min()))


def _sigmoid_std(scores: Tensor, sharpness: float) -> Tensor:
    return functional.logsigmoid(-scores / scores.std(correction=0))


def _exp(scores: Tensor, sharpness: float) -> Tensor:
    return 1 - 2 * (scores - scores.min()) / (scores.max() - scores.min())


def _hard(scores: Tensor, sharpness: float) -> Tensor:
    return (scores <= 0).to(scores).log()


# The logarithm of the weights, from scores that are not all the same: in logarithms no weight is lost before they are scaled.
MAPS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "sigmoid": _sigmoid,
    "sigmoid_std": _sigmoid_std,
    "exp": _exp,
    "hard": _hard,
}


def sample_weights(
    scores: Tensor,
    by: str = "sigmoid",
    sharpness: float = 10.0,
    sign: str = "correct",
    weighed: Tensor | None = None,
    clip: float = CLIPPED_SHARE,
) -> Tensor:
    """Weights (n,) float32 from scores (n,): mean one over the samples that are weighed, 1 for the others.

    `weighed` (n,) bool leaves samples out; so does a score that is not finite. The scores phi are first clipped to the quantiles
    `clip` and 1 - `clip`, because a few outliers would decide the range. `by` is one of `MAPS`, all decreasing in phi:

    - sigmoid: sigmoid(-k phi / (max - min)), with k the sharpness (Wang et al., AAAI 2020, released code);
    - sigmoid_std: sigmoid(-phi / std);
    - exp: exp(-m), m the scores brought to [-1, 1] (KD-AIF, released code, with its sign corrected);
    - hard: 1 where phi <= 0, else 0.

    `sign="released"` flips phi. KD-AIF's released code (arXiv 2501.02705) takes influence as the change of the test loss when a
    sample counts more, so positive is harmful, and weighs by exp(+m): harmful samples get more. It is there to be compared.
    Where all scores are the same, or no sample would count, all weights are 1.
    """
    counted = scores.isfinite() if weighed is None else weighed & scores.isfinite()
    weights = torch.ones_like(scores, dtype=torch.float32)
    known = clipped(scores[counted].double(), clip)
    if not len(known) or known.min() == known.max():
        return weights
    logs = MAPS[by](known if sign == "correct" else -known, sharpness)
    if logs.max() == -math.inf:
        return weights
    weights[counted] = (logs - logs.logsumexp(dim=0) + math.log(len(known))).exp().float()
    return weights


def clipped(scores: Tensor, share: float = CLIPPED_SHARE) -> Tensor:
    """Scores (n,) that were among the lowest or highest `share` have the value of the next ones."""
    outside = int(share * len(scores))
    if not outside:
        return scores
    ordered = scores.sort().values  # torch.quantile refuses more than 2^24 values
    return scores.clamp(ordered[outside], ordered[-1 - outside])


def auc(scores: Tensor, positive: Tensor) -> float:
    """The chance that a positive sample scores above another one, ties counted half: scores (n,), positive (n,) bool.

    The area under the ROC curve, by ranks (Mann and Whitney 1947). Scores that are not numbers are left out; NaN where
    either kind is missing.
    """
    known = ~scores.isnan()
    _, place, counts = torch.unique(scores[known], return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2).double()[place]  # ties have their mean rank
    found = positive[known]
    above, below = int(found.sum()), int((~found).sum())
    if not above or not below:
        return math.nan
    return float((ranks[found].sum() - above * (above + 1) / 2) / (above * below))
