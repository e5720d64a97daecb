"""Where the search for TTM begins and goes. Knows the names of its settings, nothing else."""

from typing import Any

from search_spaces.space import LEARNING_RATE, Trial, suggest_recipe, suggest_temperature, suggest_weight

# The paper's comparison with KD (arXiv 2402.11148, figure 1), and its tuned resnet56 -> resnet20 (table 8): gamma = 0.3 and
# beta = 7, so T = 10/3 and, by equation 19, alpha = beta / (beta + T) = 21/31; the published rate of the additive form
# becomes 0.05 / (1 - alpha), because the convex form is the additive one times 1 - alpha.
_FORM = {"form": "convex", "alpha_schedule": "constant"}
POINTS: tuple[dict[str, Any], ...] = (
    {**_FORM, "temperature": 4.0, "alpha": 0.9, "training.learning_rate": LEARNING_RATE},
    {**_FORM, "temperature": 10 / 3, "alpha": 21 / 31, "training.learning_rate": LEARNING_RATE * 31 / 10},
)


def space(trial: Trial) -> None:
    """Temperature, weight of the soft term, learning rate; the published settings of all pairs have alpha in [0.6, 0.95]."""
    suggest_temperature(trial)
    suggest_weight(trial, 1.0, 200.0)
    suggest_recipe(trial)
