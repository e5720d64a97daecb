"""Where the search for Tf-KD begins and goes. Knows the names of its settings, nothing else."""

from typing import Any

from search_spaces.space import LEARNING_RATE, Trial, suggest_recipe

POINTS: tuple[dict[str, Any], ...] = (
    {"alpha": 0.1, "correct": 0.99, "temperature": 20.0, "training.learning_rate": LEARNING_RATE},
)


def space(trial: Trial) -> None:
    """Weight, certainty and temperature of the virtual teacher, learning rate."""
    trial.suggest_float("alpha", 0.01, 0.9, log=True)
    trial.suggest_float("correct", 0.9, 0.999)
    trial.suggest_float("temperature", 4.0, 40.0, log=True)
    suggest_recipe(trial)
