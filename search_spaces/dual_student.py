"""Search space of dual students."""

from typing import Any

from search_spaces.space import (
    LEARNING_RATE,
    Trial,
    suggest_peers,
    suggest_recipe,
    suggest_temperature,
)

_PEERS = {
    "peer_weight": "none",
    "peer_temperature": 1.0,
    "peer_warmup": 0.2,
    "update": "simultaneous",
}
_SHARED = {"temperature": 4.0, "lambda_ce": 0.3, **_PEERS, "training.learning_rate": LEARNING_RATE}
_BOTH, _TEACHER_ALONE = (
    {"lambda_kd": 0.5, "lambda_peer": 0.2},
    {"lambda_kd": 0.7, "lambda_peer": 0.0},
)
_CERTAIN = {"certainty": "certain", "certainty_temperature": 1.0, "w_norm": "none"}

# The ablation of both parts: both, peers alone, certainty alone, plain KD. Then certainty that
# only selects samples (in the first point it also weakens the teacher term), and its published
# reverse. The weights sum to one.
POINTS: tuple[dict[str, Any], ...] = (
    {**_SHARED, **_BOTH, **_CERTAIN},
    {**_SHARED, **_BOTH, "certainty": "none"},
    {**_SHARED, **_TEACHER_ALONE, **_CERTAIN},
    {**_SHARED, **_TEACHER_ALONE, "certainty": "none"},
    {**_SHARED, **_BOTH, **_CERTAIN, "w_norm": "mean1"},
    {**_SHARED, **_BOTH, **_CERTAIN, "certainty": "uncertain", "w_norm": "mean1"},
)


def space(trial: Trial) -> None:
    """Draw the weights of labels, teacher and peers, settings of the certainty, and learning rate.

    The sweep adds the peers' own learning rates. One of the three weights is redundant,
    because the learning rate absorbs their sum; its range is wide enough for all of them. The peer
    settings are drawn at lambda_peer = 0, too. Only a point or a fixed value has this weight, and
    only a choice can be a condition.
    """
    trial.suggest_float("lambda_ce", 0.1, 0.5)
    trial.suggest_float("lambda_kd", 0.3, 0.9)
    trial.suggest_float("lambda_peer", 0.0, 0.5)
    suggest_temperature(trial)
    certainty = trial.suggest_categorical("certainty", ("certain", "uncertain", "none"))
    leaning = trial.suggest_categorical("peer_weight", ("none", "1-w"))
    if certainty != "none":
        trial.suggest_categorical("w_norm", ("none", "mean1"))
    if certainty != "none" or leaning != "none":
        trial.suggest_float("certainty_temperature", 0.5, 4.0, log=True)
    suggest_peers(trial)
    suggest_recipe(trial)
