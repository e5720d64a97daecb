"""Search space of deep mutual learning."""

from typing import Any

from search_spaces.space import LEARNING_RATE, Trial, suggest_peers, suggest_recipe

# The published objective with alternating updates; then with simultaneous updates, which need no
# additional forward pass.
_PUBLISHED = {
    "lambda_peer": 1.0,
    "peer_temperature": 1.0,
    "peer_warmup": 0.0,
    "training.learning_rate": LEARNING_RATE,
}
POINTS: tuple[dict[str, Any], ...] = (
    {**_PUBLISHED, "update": "alternating"},
    {**_PUBLISHED, "update": "simultaneous"},
)


def space(trial: Trial) -> None:
    """Draw the weight of the peers (that of the labels is 1), peer settings, and learning rate.

    The sweep adds the peers' own learning rates.
    """
    trial.suggest_float("lambda_peer", 0.1, 3.0, log=True)
    suggest_peers(trial)
    suggest_recipe(trial)
