"""Where the search for deep mutual learning begins and goes. Knows the names of its settings, nothing else."""

from typing import Any

from search_spaces.space import LEARNING_RATE, Trial, suggest_peers, suggest_recipe

# The published objective, its students in turn; and the same with all of them at once, which costs no further forward.
_PUBLISHED = {"lambda_peer": 1.0, "peer_temperature": 1.0, "peer_warmup": 0.0, "training.learning_rate": LEARNING_RATE}
POINTS: tuple[dict[str, Any], ...] = ({**_PUBLISHED, "update": "alternating"}, {**_PUBLISHED, "update": "simultaneous"})


def space(trial: Trial) -> None:
    """How much the peers count beside labels of weight 1, how they are heard, and the rate; peers' own rates come by themselves."""
    trial.suggest_float("lambda_peer", 0.1, 3.0, log=True)
    suggest_peers(trial)
    suggest_recipe(trial)
