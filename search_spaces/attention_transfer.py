"""Search space of attention transfer."""

from search_spaces.space import LEARNING_RATE, Trial, suggest_recipe

# RepDistiller's setting on CIFAR-100: weight 1000 on the attention of all stages, none on logits.
POINTS = ({"beta": 1000.0, "alpha": 0.0, "stages": 0, "training.learning_rate": LEARNING_RATE},)


def space(trial: Trial) -> None:
    """Draw the weight of the attention and the learning rate; the stages are fixed by the sweep.

    Small images need less weight than the published one: F grows as positions get fewer.
    """
    trial.suggest_float("beta", 0.1, 10_000.0, log=True)
    trial.suggest_categorical("alpha", (0.0,))
    trial.suggest_categorical("stages", (0,))
    suggest_recipe(trial)
