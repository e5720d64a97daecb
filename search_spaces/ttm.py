"""Search space of TTM."""

from typing import Any

from search_spaces.space import (
    LEARNING_RATE,
    Trial,
    suggest_recipe,
    suggest_temperature,
    suggest_weight,
)

# Counterpart of KD's first point, at its temperature, alpha and rate; not a published training.
# The paper's comparison with KD (arXiv 2402.11148, figure 1) has this alpha as beta = 36 in the
# additive form. Its gradient is 10 times as large, and a small network without batch
# normalisation diverges.
COMPARABLE: dict[str, Any] = {
    "form": "convex",
    "alpha_schedule": "constant",
    "temperature": 4.0,
    "alpha": 0.9,
    "training.learning_rate": LEARNING_RATE,
}
# Published training of resnet56 -> resnet20 (table 8): CE + beta D with gamma = 0.3, so T = 10/3,
# and beta = 7, at the published rate; the decay is that of the recipe.
PUBLISHED: dict[str, Any] = {
    "form": "additive",
    "alpha_schedule": "constant",
    "normalize": False,
    "temperature": 10 / 3,
    "beta": 7.0,
    "training.learning_rate": LEARNING_RATE,
}
POINTS: tuple[dict[str, Any], ...] = (COMPARABLE, PUBLISHED)


def suggest_ttm(trial: Trial) -> str:
    """Draw the parameters of TTM and WTTM except the recipe; return the form."""
    suggest_temperature(trial)
    form = suggest_weight(trial, 1.0, 200.0)
    if form == "additive":
        trial.suggest_categorical("normalize", (True,))
    return form


def space(trial: Trial) -> None:
    """Draw the temperature, the weight of the soft term, and the learning rate.

    The published settings of all pairs have alpha in [0.6, 0.95].
    """
    suggest_ttm(trial)
    suggest_recipe(trial)
