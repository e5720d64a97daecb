"""Search space of DKD."""

from typing import Any

from search_spaces.space import LEARNING_RATE, Trial, suggest_recipe, suggest_temperature

_PUBLISHED: dict[str, Any] = {
    "alpha": 1.0,
    "beta": 8.0,
    "temperature": 4.0,
    "warmup": 20 / 240,
    "standardize": False,
    "training.learning_rate": LEARNING_RATE,
}
# The settings on CIFAR-100: beta = 8 by default, 6 for vgg13 and for wide residual networks of both
# sizes, 2 for resnet56 and resnet110. Then resnet32x4 -> resnet8x4 with standardised logits: T = 2
# and 9 times both weights (arXiv 2403.01427, released code).
POINTS: tuple[dict[str, Any], ...] = (
    _PUBLISHED,
    {**_PUBLISHED, "beta": 6.0},
    {**_PUBLISHED, "beta": 2.0},
    {**_PUBLISHED, "alpha": 9.0, "beta": 72.0, "temperature": 2.0, "standardize": True},
)


def space(trial: Trial) -> None:
    """Draw the weight of the other classes, the temperature and the learning rate.

    The weight of the target class is 1 in all published settings, and the warm-up a twelfth of the
    epochs. Standardised logits are for a sweep that fixes them; alpha is then 9.
    """
    trial.suggest_categorical("alpha", (1.0,))
    trial.suggest_float("beta", 0.5, 100.0, log=True)
    suggest_temperature(trial)
    trial.suggest_categorical("warmup", (20 / 240,))
    trial.suggest_categorical("standardize", (False,))
    suggest_recipe(trial)
