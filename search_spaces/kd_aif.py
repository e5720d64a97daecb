"""Search space of KD-AIF."""

from typing import Any

from search_spaces.space import LEARNING_RATE, Trial, suggest_recipe, suggest_temperature

# The sigmoid of UIDS with KD's usual setting (T = 4, alpha = 0.9); then the released code, which
# distils at T = 7 and weights once by exp(min-max), with its sign corrected here.
_COMMON: dict[str, Any] = {"alpha": 0.9, "damping": 0.01, "training.learning_rate": LEARNING_RATE}
POINTS: tuple[dict[str, Any], ...] = (
    {
        **_COMMON,
        "update": "iterative",
        "weight_map": "sigmoid",
        "sharpness": 10.0,
        "temperature": 4.0,
        "every": 2,
        "momentum": 0.5,
    },
    {**_COMMON, "update": "static", "weight_map": "exp", "temperature": 7.0},
)


def space(trial: Trial) -> None:
    """Draw temperature, alpha, schedule and map of the weights, damping, and learning rate.

    To compare the baselines of `weigh_by`, the estimators, or the updates that train the teacher,
    fix them in the sweep. Fix `ssl`, too, which data with unlabelled samples require. `static`
    trains twice within the same epochs, so a scheduler that compares early puts it at a
    disadvantage.
    """
    suggest_temperature(trial)
    update = trial.suggest_categorical("update", ("iterative", "static"))
    if update != "ssl":
        trial.suggest_float("alpha", 0.1, 0.99)
    else:
        trial.suggest_float("unlabelled_weight", 0.1, 10.0, log=True)
    trial.suggest_float("damping", 0.001, 0.1, log=True)
    if (
        trial.suggest_categorical("weight_map", ("sigmoid", "sigmoid_std", "exp", "hard"))
        == "sigmoid"
    ):
        trial.suggest_float("sharpness", 2.0, 20.0, log=True)
    if update != "static":
        trial.suggest_categorical("every", (1, 2, 4))
        trial.suggest_categorical("momentum", (0.0, 0.5, 0.9))
    suggest_recipe(trial)
