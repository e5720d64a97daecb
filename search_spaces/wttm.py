"""Where the search for WTTM begins and goes. Knows the names of its settings, nothing else."""

from typing import Any

from search_spaces import ttm
from search_spaces.space import Trial, suggest_recipe

# With weights of mean one (`mean_power_sum`, the default) TTM's first point is a comparable one, by the rule of the paper's
# figure 1 (beta_WTTM = beta_TTM / mean U). The published training of resnet56 -> resnet20 (table 8) weighs by the raw power sum,
# with beta = 1.5.
POINTS: tuple[dict[str, Any], ...] = (ttm.COMPARABLE, {**ttm.PUBLISHED, "beta": 1.5, "mean_power_sum": False})


def space(trial: Trial) -> None:
    """The space of TTM: the same questions and the same budget, so that the weights alone make the difference."""
    if ttm.ask(trial) == "additive":
        trial.suggest_categorical("mean_power_sum", (True,))
    suggest_recipe(trial)
