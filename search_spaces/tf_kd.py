"""Search space of Tf-KD."""

from typing import Any

from search_spaces.space import LEARNING_RATE, Trial, suggest_recipe

# The paper's form. The released code has another objective, for a sweep that fixes `form:
# released`.
POINTS: tuple[dict[str, Any], ...] = (
    {
        "form": "paper",
        "alpha": 0.1,
        "correct": 0.99,
        "temperature": 20.0,
        "training.learning_rate": LEARNING_RATE,
    },
)


def space(trial: Trial) -> None:
    """Draw weight, certainty and temperature of the virtual teacher, and the learning rate.

    The released form has its multiplier, too.
    """
    if trial.suggest_categorical("form", ("paper",)) == "released":
        trial.suggest_float("multiplier", 1.0, 1000.0, log=True)
    trial.suggest_float("alpha", 0.01, 0.9, log=True)
    trial.suggest_float("correct", 0.9, 0.999)
    trial.suggest_float("temperature", 4.0, 40.0, log=True)
    suggest_recipe(trial)
