"""Search space of KD."""

from search_spaces.space import (
    LEARNING_RATE,
    Trial,
    suggest_recipe,
    suggest_temperature,
    suggest_weight,
)

# mdistiller's setting on CIFAR-100: T = 4, weight 0.1 on the labels and 0.9 on the teacher.
POINTS = (
    {
        "form": "convex",
        "alpha_schedule": "constant",
        "temperature": 4.0,
        "alpha": 0.9,
        "training.learning_rate": LEARNING_RATE,
    },
)


def space(trial: Trial) -> None:
    """Draw the temperature, the weight of the soft term, and the learning rate."""
    suggest_temperature(trial)
    suggest_weight(trial, 0.1, 100.0)
    suggest_recipe(trial)
