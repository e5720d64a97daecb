"""Map scores of training samples to weights, and measure how well scores separate samples.

A score above 0 marks a harmful sample.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Sign = Literal["correct", "released"]
MapName = Literal["sigmoid", "sigmoid_std", "exp", "hard"]
CLIPPED_SHARE = 0.01  # share of the scores at either end


def _sigmoid(scores: Tensor, sharpness: float) -> Tensor:
    return functional.logsigmoid(-sharpness * scores / (scores.max() - scores.min()))


def _sigmoid_std(scores: Tensor, sharpness: float) -> Tensor:
    return functional.logsigmoid(-scores / scores.std(correction=0))


def _exp(scores: Tensor, sharpness: float) -> Tensor:
    return 1 - 2 * (scores - scores.min()) / (scores.max() - scores.min())


def _hard(scores: Tensor, sharpness: float) -> Tensor:
    return (scores <= 0).to(scores).log()


# Logarithms of the weights, from scores that are not all equal. Logarithms do not underflow.
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
    """Return weights (n,) float32 from scores phi (n,).

    Their mean is 1 over the weighted samples; the other samples have weight 1. The scores are first
    clipped to the quantiles `clip` and 1 - `clip`, because a few outliers would decide the range.
    If all scores are equal, or no sample would count, all weights are 1.

    The maps are all decreasing in phi:

    - sigmoid: sigmoid(-k phi / (max - min)), with the sharpness k (Wang et al., AAAI 2020, released
      code);
    - sigmoid_std: sigmoid(-phi / std);
    - exp: exp(-m), m the scores scaled to [-1, 1] (KD-AIF, released code, with its sign corrected);
    - hard: 1 if phi <= 0, else 0.

    The released code of KD-AIF (arXiv 2501.02705) takes influence as the change of the test loss
    when a sample counts more. Positive is then harmful, but it weights by exp(+m), so that harmful
    samples get more. `sign="released"` reproduces this for comparison.

    Args:
        scores: (n,) scores phi; samples with a score that is not finite are left out.
        by: A key of `MAPS`.
        sharpness: k of the sigmoid.
        sign: `correct`, or `released` to flip phi.
        weighed: (n,) bool, samples to weight; None means all.
        clip: Share of the scores that is clipped at either end.
    """
    counted = scores.isfinite() if weighed is None else weighed & scores.isfinite()
    weights = torch.ones_like(scores, dtype=torch.float32)
    known = clip_scores(scores[counted].double(), clip)
    if not len(known) or known.min() == known.max():
        return weights
    logs = MAPS[by](known if sign == "correct" else -known, sharpness)
    if logs.max() == -math.inf:
        return weights
    weights[counted] = (logs - logs.logsumexp(dim=0) + math.log(len(known))).exp().float()
    return weights


def clip_scores(scores: Tensor, share: float = CLIPPED_SHARE) -> Tensor:
    """Return scores (n,) with the lowest and highest `share` clipped to the next values."""
    clip_count = int(share * len(scores))
    if not clip_count:
        return scores
    sorted_scores = scores.sort().values  # torch.quantile refuses more than 2^24 values
    return scores.clamp(sorted_scores[clip_count], sorted_scores[-1 - clip_count])


def auc(scores: Tensor, positive: Tensor) -> float:
    """Return the chance that a positive sample scores above another one; ties count half.

    This is the area under the ROC curve, by ranks (Mann and Whitney 1947). NaN scores are left out.
    The result is NaN if either kind is missing.

    Args:
        scores: (n,) scores.
        positive: (n,) bool, the positive samples.
    """
    known = ~scores.isnan()
    _, rank_index, counts = torch.unique(scores[known], return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2).double()[rank_index]  # ties get their mean rank
    is_positive = positive[known]
    above, below = int(is_positive.sum()), int((~is_positive).sum())
    if not above or not below:
        return math.nan
    return float((ranks[is_positive].sum() - above * (above + 1) / 2) / (above * below))
