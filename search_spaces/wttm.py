"""Search space of WTTM."""

from typing import Any

from search_spaces import ttm
from search_spaces.space import Trial, suggest_recipe

# With weights of mean one (`mean_power_sum`, the default) TTM's first point is comparable, by the
# rule of the paper's figure 1 (beta_WTTM = beta_TTM / mean U). The published training of resnet56
# -> resnet20 (table 8) weights by the raw power sum, with beta = 1.5.
POINTS: tuple[dict[str, Any], ...] = (
    ttm.COMPARABLE,
    {**ttm.PUBLISHED, "beta": 1.5, "mean_power_sum": False},
)


def space(trial: Trial) -> None:
    """Draw from the space of TTM.

    The parameters and the budget are the same, so that only the weights make the difference.
    """
    if ttm.suggest_ttm(trial) == "additive":
        trial.suggest_categorical("mean_power_sum", (True,))
    suggest_recipe(trial)
