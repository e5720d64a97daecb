"""Search space of a method: initial points, and a function that draws values from a trial."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

# The rate of the published CIFAR recipes (CRD, TTM, mdistiller).
LEARNING_RATE = 0.05
LEARNING_RATES = (0.005, 0.5)  # range of the search
SCHEDULES = ("constant", "linear", "cosine", "step", "learnable", "gap")  # schedules of alpha


class Trial(Protocol):
    """Source of values: Optuna's trial, or any object that fixes or replays values by name."""

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        """Return a number in [low, high]."""

    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int:
        """Return a whole number in [low, high]."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices.

        A value fixed by the configuration may be another one that the method allows.
        """


class Space(NamedTuple):
    """Search space: `points` are evaluated first, then `suggest` draws the values.

    A name with a dot (`training.learning_rate`) is a key of the configuration; any other name is a
    setting of the method. A parameter with a single choice is not searched. A point may set another
    value, which is then a parameter of that trial alone.

    `identity` identifies the code of a space that is given from outside; a resume compares it.
    """

    points: tuple[dict[str, Any], ...]
    suggest: Callable[[Trial], None]
    identity: str = ""


def suggest_recipe(trial: Trial) -> None:
    """Draw the part of the recipe that every method searches, the baseline included.

    A learning rate tuned for one method alone favours that method.
    """
    trial.suggest_float("training.learning_rate", *LEARNING_RATES, log=True)


def suggest_temperature(trial: Trial) -> None:
    """Draw T, from no softening to the TTM paper's gamma = 0.1.

    The scale is logarithmic, because T divides the logits.
    """
    trial.suggest_float("temperature", 1.0, 10.0, log=True)


def suggest_weight(trial: Trial, low: float, high: float) -> str:
    """Draw the weight of the soft term, and return the form.

    The convex form has the weight `alpha`, the additive one `beta` in [low, high]. The convex form
    is the additive one times 1 - alpha. Under SGD that is the same training at learning_rate / (1 -
    alpha) with weight_decay x (1 - alpha). The product of both shrinks the weights at a step, and
    this search leaves weight_decay unchanged. The forms therefore differ only by the strength of
    the decay, which is a setting of its own.

    `form` thus has one choice. The additive branch serves sweeps that fix `form: additive`, and
    published points. `alpha_schedule` has one choice, too: these methods are baselines with a fixed
    alpha, unless the sweep fixes another schedule.
    """
    form = str(trial.suggest_categorical("form", ("convex",)))
    if form == "convex":
        suggest_alpha(trial, ("constant",))
    else:
        trial.suggest_categorical("alpha_schedule", ("constant",))  # the additive form has no alpha
        trial.suggest_float("beta", low, high, log=True)
    return form


def suggest_peers(trial: Trial) -> None:
    """Draw the settings of peer learning: temperature, warm-up and order of updates."""
    trial.suggest_float("peer_temperature", 1.0, 4.0, log=True)
    trial.suggest_float("peer_warmup", 0.0, 0.5)
    trial.suggest_categorical("update", ("simultaneous", "alternating"))


def suggest_alpha(trial: Trial, schedules: Sequence[str]) -> None:
    """Draw the schedule of alpha, from `schedules` or as the sweep fixes it; then its settings."""
    family = trial.suggest_categorical("alpha_schedule", schedules)
    if family == "constant":
        trial.suggest_float("alpha", 0.1, 0.99)
    elif family == "learnable":
        form = trial.suggest_categorical(
            "alpha_learnable", ("raw", "uncertainty", "entropy", "bayes", "bilevel")
        )
        trial.suggest_float("alpha_learning_rate", 0.005, 0.05, log=True)
        if form == "entropy":
            trial.suggest_float("alpha_tau", 0.2, 5.0, log=True)
        elif form == "bayes":
            trial.suggest_float("alpha_degrees", 0.2, 20.0, log=True)
        elif form == "bilevel":
            trial.suggest_categorical("alpha_every", (5, 10, 20))
    elif family == "gap":
        formula = trial.suggest_categorical("alpha_gap", ("ratio", "kl", "label", "acc"))
        if formula == "kl":
            trial.suggest_float("alpha_scale", 0.05, 5.0, log=True)
        if formula == "ratio" or (
            formula == "kl" and not trial.suggest_categorical("alpha_per_sample", (False, True))
        ):
            trial.suggest_categorical("alpha_ema", (0.0, 0.9))
        elif formula != "kl":
            trial.suggest_float("alpha_slope", 2.0, 10.0, log=True)
    else:
        trial.suggest_float("alpha_start", 0.1, 0.99)
        trial.suggest_float("alpha_end", 0.0, 0.99)
        trial.suggest_float("alpha_when", 0.25, 0.9)
