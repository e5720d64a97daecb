"""Where the search for WTTM begins and goes. Knows the names of its settings, nothing else."""

from search_spaces import ttm
from search_spaces.space import Trial

# With weights of mean one (`mean_power_sum`, the default) TTM's points are comparable ones, by the rule of the paper's figure 1
# (beta_WTTM = beta_TTM / mean U). The paper's tuned WTTM settings (table 8) weigh by the raw power sum, whose mean only the data
# tell: they are no points of this space; configs/cifar100_wttm.yaml holds them.
POINTS = ttm.POINTS


def space(trial: Trial) -> None:
    """The space of TTM: the same questions and the same budget, so that the weights alone make the difference."""
    ttm.space(trial)
