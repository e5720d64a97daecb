"""Search space of FitNet."""

from search_spaces.space import LEARNING_RATE, Trial, suggest_recipe

# RepDistiller's setting on CIFAR-100: weight 100 on the hint, none on the logits, middle stages;
# then with its regressor.
POINTS = tuple(
    {
        "beta": 100.0,
        "alpha": 0.0,
        "student_stage": 0,
        "teacher_stage": 0,
        "regressor": regressor,
        "training.learning_rate": LEARNING_RATE,
    }
    for regressor in ("pointwise", "released")
)


def space(trial: Trial) -> None:
    """Draw the weight of the hint and the learning rate; the sweep fixes stages and regressor.

    Small images need less weight than the published one.
    """
    trial.suggest_float("beta", 0.1, 1000.0, log=True)
    trial.suggest_categorical("alpha", (0.0,))
    trial.suggest_categorical("student_stage", (0,))
    trial.suggest_categorical("teacher_stage", (0,))
    trial.suggest_categorical("regressor", ("pointwise",))
    suggest_recipe(trial)
