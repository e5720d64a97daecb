"""Search space of training on labels alone."""

from search_spaces.space import LEARNING_RATE, Trial, suggest_recipe

POINTS = ({"label_smoothing": 0.0, "training.learning_rate": LEARNING_RATE},)


def space(trial: Trial) -> None:
    """Draw the learning rate, and label smoothing as a regulariser that needs no teacher."""
    trial.suggest_float("label_smoothing", 0.0, 0.2)
    suggest_recipe(trial)
