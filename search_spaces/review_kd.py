"""Search space of ReviewKD."""

from typing import Any

from search_spaces.space import LEARNING_RATE, Trial, suggest_recipe

# beta of the released CIFAR-100 scripts: 5 for the pairs of WRNs, resnet32x4 -> resnet8x4 and both
# ShuffleNetV1 students; 8 for resnet32x4 -> ShuffleNetV2; 1 for resnet110 -> resnet32; 0.6 for
# resnet56 -> resnet20.
BETAS = (5.0, 8.0, 1.0, 0.6)
POINTS: tuple[dict[str, Any], ...] = tuple(
    {
        "beta": beta,
        "alpha": 0.0,
        "stages": 0,
        "warmup": 20 / 240,
        "training.learning_rate": LEARNING_RATE,
    }
    for beta in BETAS
)


def space(trial: Trial) -> None:
    """Draw the weight of the feature term and the learning rate; the rest is fixed by the sweep."""
    trial.suggest_float("beta", 0.1, 20.0, log=True)
    trial.suggest_categorical("alpha", (0.0,))
    trial.suggest_categorical("stages", (0,))
    trial.suggest_categorical("warmup", (20 / 240,))
    suggest_recipe(trial)
