"""Search space of AKD."""

from typing import Any

from search_spaces.space import (
    LEARNING_RATE,
    SCHEDULES,
    Trial,
    suggest_alpha,
    suggest_recipe,
    suggest_temperature,
)

_SHARED = {"temperature": 4.0, "cam": False, "training.learning_rate": LEARNING_RATE}
_RATIO = {"alpha_schedule": "gap", "alpha_gap": "ratio", "alpha_ema": 0.9}
_CAM = {"cam": True, "cam_width": 32, "cam_heads": 4, "cam_rho": 4.0}

# The method's default, KD with a fixed alpha as the baseline, and the forms of an adaptive alpha
# to compare.
POINTS: tuple[dict[str, Any], ...] = (
    {**_SHARED, **_RATIO},
    {**_SHARED, "alpha_schedule": "constant", "alpha": 0.9},
    {**_SHARED, **_RATIO, **_CAM},
    {
        **_SHARED,
        "alpha_schedule": "learnable",
        "alpha_learnable": "uncertainty",
        "alpha_learning_rate": 0.02,
    },
    {**_SHARED, "alpha_schedule": "gap", "alpha_gap": "label", "alpha_slope": 5.0},
    {
        **_SHARED,
        "alpha_schedule": "learnable",
        "alpha_learnable": "raw",
        "alpha_learning_rate": 0.02,
    },
)


def space(trial: Trial) -> None:
    """Draw the schedule of alpha and its settings, temperature, module settings, and learning rate.

    The size of the module is drawn only if the module is on.
    """
    suggest_alpha(trial, SCHEDULES)
    suggest_temperature(trial)
    if trial.suggest_categorical("cam", (False, True)):
        trial.suggest_categorical("cam_width", (16, 32))
        trial.suggest_categorical("cam_heads", (1, 2, 4))
        trial.suggest_float("cam_rho", 1.0, 8.0, log=True)
    suggest_recipe(trial)
