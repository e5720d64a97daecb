"""Search space of CRD."""

from typing import Any

from search_spaces.space import LEARNING_RATE, Trial, suggest_recipe

_PUBLISHED: dict[str, Any] = {
    "beta": 0.8,
    "negatives": 16_384,
    "nce_temperature": 0.07,
    "training.learning_rate": LEARNING_RATE,
}
_COMBINED: dict[str, Any] = {**_PUBLISHED, "form": "additive"}
# RepDistiller's settings on CIFAR-100: CRD, and CRD+KD, where all weights but that of CRD are 1.
# Then WTTM+CRD of TTM's released code, with the values of vgg13 -> vgg8 (gamma = 1 / T = 0.2).
POINTS: tuple[dict[str, Any], ...] = (
    {**_PUBLISHED, "form": "convex", "alpha": 0.0},
    {**_COMBINED, "alpha": 1.0, "logit_term": "kd", "temperature": 4.0},
    {**_COMBINED, "alpha": 4.0, "logit_term": "wttm", "temperature": 5.0},
)


def space(trial: Trial) -> None:
    """Draw the weight of the contrast, its temperature and the learning rate.

    The number of negatives is the published one unless the sweep fixes another: it changes the
    scale of the loss, and so the weight. Weights of the logits are fixed by the sweep, too.
    """
    trial.suggest_float("beta", 0.02, 5.0, log=True)
    trial.suggest_categorical("negatives", (16_384,))
    trial.suggest_float("nce_temperature", 0.03, 0.3, log=True)
    trial.suggest_categorical("form", ("convex",))
    if trial.suggest_categorical("alpha", (0.0,)):
        trial.suggest_categorical("logit_term", ("kd",))
        trial.suggest_categorical("temperature", (4.0,))
    suggest_recipe(trial)
