"""Search space of DIST."""

from search_spaces.space import LEARNING_RATE, Trial, suggest_recipe, suggest_temperature

# The setting on CIFAR-100: weight 2 on both relations, T = 4.
POINTS = ({"beta": 2.0, "gamma": 2.0, "temperature": 4.0, "training.learning_rate": LEARNING_RATE},)


def space(trial: Trial) -> None:
    """Draw the weights of both relations, the temperature and the learning rate."""
    trial.suggest_float("beta", 0.1, 10.0, log=True)
    trial.suggest_float("gamma", 0.1, 10.0, log=True)
    suggest_temperature(trial)
    suggest_recipe(trial)
