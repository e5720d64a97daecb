"""Where the search for WTTM begins and goes. Knows the names of its settings, nothing else."""

from search_spaces import ttm
from search_spaces.space import Trial

# With weights of mean one (`mean_power_sum`, the default) the rule of the paper's figure 1 makes WTTM's beta that of TTM, so
# the points of TTM say the same thing here.
POINTS = ttm.POINTS


def space(trial: Trial) -> None:
    """The space of TTM: the same questions and the same budget, so that the weights alone make the difference."""
    ttm.space(trial)
