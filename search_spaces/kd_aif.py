"""Where the search for KD-AIF begins and goes. Knows the names of its settings, nothing else."""

from typing import Any

from search_spaces.space import LEARNING_RATE, Trial, suggest_recipe, suggest_temperature

# The released code distils at T = 7 and weighs once by exp(min-max), whose sign is corrected here; and the sigmoid of UIDS with
# KD's usual setting (T = 4, alpha = 0.9).
_COMMON: dict[str, Any] = {"alpha": 0.9, "damping": 0.01, "training.learning_rate": LEARNING_RATE}
POINTS: tuple[dict[str, Any], ...] = (
    {**_COMMON, "update": "iterative", "weight_map": "sigmoid", "sharpness": 10.0, "temperature": 4.0, "every": 2, "momentum": 0.5},
    {**_COMMON, "update": "static", "weight_map": "exp", "temperature": 7.0},
)


def space(trial: Trial) -> None:
    """Temperature and alpha, when and how samples are weighed, damping, learning rate.

    The baselines of `weigh_by`, the estimators and the updates that train the teacher are held by whoever wants to compare them;
    so is `ssl`, which data with unlabelled samples need. `static` trains twice in the same epochs, which a scheduler that compares early
    does not do justice.
    """
    suggest_temperature(trial)
    update = trial.suggest_categorical("update", ("iterative", "static"))
    if update != "ssl":
        trial.suggest_float("alpha", 0.1, 0.99)
    else:
        trial.suggest_float("unlabelled_weight", 0.1, 10.0, log=True)
    trial.suggest_float("damping", 0.001, 0.1, log=True)
    if trial.suggest_categorical("weight_map", ("sigmoid", "sigmoid_std", "exp", "hard")) == "sigmoid":
        trial.suggest_float("sharpness", 2.0, 20.0, log=True)
    if update != "static":
        trial.suggest_categorical("every", (1, 2, 4))
        trial.suggest_categorical("momentum", (0.0, 0.5, 0.9))
    suggest_recipe(trial)
