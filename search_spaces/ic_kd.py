"""Search space of IC-KD."""

from typing import Any

from search_spaces.space import LEARNING_RATE, Trial, suggest_recipe, suggest_temperature

_COMMON: dict[str, Any] = {
    "alpha": 0.9,
    "temperature": 4.0,
    "positives": 8,
    "negatives": 32,
    "retrieval_temperature": 0.1,
    "aggregate": "logit",
    "nicd_temperature": 0.5,
    "training.learning_rate": LEARNING_RATE,
}
# Both terms, then small weights of both. Without a teacher the bank knows no more than the
# student, so its weight is smaller.
POINTS: tuple[dict[str, Any], ...] = (
    {**_COMMON, "paradigm": "offline", "picd": 0.5, "nicd": 0.2},
    {**_COMMON, "paradigm": "offline", "picd": 0.25, "nicd": 0.05},
    {
        **_COMMON,
        "paradigm": "online",
        "alpha": 0.3,
        "temperature": 1.0,
        "picd": 0.5,
        "nicd": 0.2,
        "bank": "epoch",
        "warmup": 0.1,
    },
    {
        **_COMMON,
        "paradigm": "teacher_free",
        "alpha": 0.1,
        "temperature": 1.0,
        "picd": 1.0,
        "nicd": 0.2,
        "bank": "epoch",
        "warmup": 0.1,
    },
)


def space(trial: Trial) -> None:
    """Draw the settings of retrieval and aggregation, weights of both terms, and learning rate.

    If students fill the bank, its settings are drawn, too. The paradigm is offline unless the sweep
    fixes another one: the others need peers, or no teacher. Numbers of neighbours have few choices,
    so that many trials read the same table.
    """
    paradigm = trial.suggest_categorical("paradigm", ("offline",))
    suggest_temperature(trial)
    trial.suggest_float("alpha", *((0.1, 0.99) if paradigm == "offline" else (0.01, 0.6)))
    trial.suggest_float("picd", 0.0, 1.0)
    trial.suggest_float("nicd", 0.01, 0.5, log=True)
    trial.suggest_categorical("positives", (8, 1, 4, 16))
    trial.suggest_categorical("negatives", (32, 8, 4))
    trial.suggest_float("retrieval_temperature", 0.05, 10.0, log=True)
    trial.suggest_categorical("aggregate", ("logit", "prob"))
    trial.suggest_float("nicd_temperature", 0.1, 1.0, log=True)
    if paradigm != "offline":
        if trial.suggest_categorical("bank", ("epoch", "momentum", "ema")) != "epoch":
            trial.suggest_float("bank_momentum", 0.5, 0.99)
        trial.suggest_float("warmup", 0.05, 0.3)
    suggest_recipe(trial)
