"""Where the search for plain training begins and goes. Knows the names of its settings, nothing else."""

from search_spaces.space import LEARNING_RATE, Trial, suggest_recipe

POINTS = ({"label_smoothing": 0.0, "training.learning_rate": LEARNING_RATE},)


def space(trial: Trial) -> None:
    """The learning rate, and label smoothing: the baseline gets the regulariser that needs no teacher."""
    trial.suggest_float("label_smoothing", 0.0, 0.2)
    suggest_recipe(trial)
