"""Search space of MLKD."""

from typing import Any

from search_spaces.space import Trial, suggest_recipe, suggest_temperature

# The released setting on CIFAR-100, whose protocol has a second view of each image.
POINTS: tuple[dict[str, Any], ...] = (
    {
        "lambda_ce": 0.1,
        "instance": 0.9,
        "batch_level": 0.9,
        "class_level": 0.9,
        "temperature": 4.0,
        "augment": True,
        "training.learning_rate": 0.025,
    },
)


def space(trial: Trial) -> None:
    """Draw the weights of the three levels, the temperature and the learning rate."""
    trial.suggest_categorical("lambda_ce", (0.1,))
    for level in ("instance", "batch_level", "class_level"):
        trial.suggest_float(level, 0.05, 10.0, log=True)
    suggest_temperature(trial)
    trial.suggest_categorical("augment", (True,))
    suggest_recipe(trial)
