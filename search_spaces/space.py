"""What a search space is: points to begin with, and a function that draws from a trial. Knows no method and no study."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

# The rate of the published CIFAR recipes (CRD, TTM, mdistiller).
LEARNING_RATE = 0.05
LEARNING_RATES = (0.005, 0.5)  # between which it is searched
SCHEDULES = ("constant", "linear", "cosine", "step", "learnable", "gap")  # of alpha


class Trial(Protocol):
    """What draws a value: Optuna's trial, or anything that holds or replays values under the same names."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        """A number in [low, high]."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        """A whole number in [low, high]."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices; a value held by the configuration may be another that the method allows."""


class Space(NamedTuple):
    """Where a search begins and where it goes: `points` are drawn first, then `suggest` decides.

    A name with a dot (`training.learning_rate`) is a key of the configuration, any other a setting of the method. A question with
    a single choice is put to nobody; a point may answer it otherwise, which is then a parameter of that trial alone.
    """

    points: tuple[dict[str, Any], ...]
    suggest: Callable[[Trial], None]


def suggest_recipe(trial: Trial) -> None:
    """The part of the recipe that every method searches, the baseline too: a rate tuned for one alone favours that one."""
    trial.suggest_float("training.learning_rate", *LEARNING_RATES, log=True)


def suggest_temperature(trial: Trial) -> None:
    """T from no softening to the TTM paper's gamma = 0.1; logarithmic, because logits are divided by it."""
    trial.suggest_float("temperature", 1.0, 10.0, log=True)


def suggest_weight(trial: Trial, low: float, high: float) -> str:
    """The weight of the soft term: `alpha` in the convex form, `beta` in [low, high] in the additive one; return the form.

    The convex form is the additive one times 1 - alpha. Under SGD that is the same training at learning_rate / (1 - alpha) with
    weight_decay x (1 - alpha): what shrinks the weights at a step is the product of both, and this search leaves weight_decay
    alone. The forms therefore differ, but by the strength of the decay only, which is a setting of its own: `form` has one choice,
    and the additive branch is for a sweep that holds `form: additive`, and for published points. So it is with
    `alpha_schedule`: these methods are baselines of a fixed alpha, unless the sweep holds another schedule.
    """
    form = str(trial.suggest_categorical("form", ("convex",)))
    if form == "convex":
        suggest_alpha(trial, ("constant",))
    else:
        trial.suggest_categorical("alpha_schedule", ("constant",))  # the additive form has no alpha
        trial.suggest_float("beta", low, high, log=True)
    return form


def suggest_peers(trial: Trial) -> None:
    """How students hear one another: softened or not, after a warm-up or not, all at once or in turn."""
    trial.suggest_float("peer_temperature", 1.0, 4.0, log=True)
    trial.suggest_float("peer_warmup", 0.0, 0.5)
    trial.suggest_categorical("update", ("simultaneous", "alternating"))


def suggest_alpha(trial: Trial, schedules: Sequence[str]) -> None:
    """Who decides alpha, of `schedules` or as the sweep holds it; then the few numbers of that one."""
    family = trial.suggest_categorical("alpha_schedule", schedules)
    if family == "constant":
        trial.suggest_float("alpha", 0.1, 0.99)
    elif family == "learnable":
        form = trial.suggest_categorical("alpha_learnable", ("raw", "uncertainty", "entropy", "bayes", "bilevel"))
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
        if formula == "ratio" or (formula == "kl" and not trial.suggest_categorical("alpha_per_sample", (False, True))):
            trial.suggest_categorical("alpha_ema", (0.0, 0.9))
        elif formula != "kl":
            trial.suggest_float("alpha_slope", 2.0, 10.0, log=True)
    else:
        trial.suggest_float("alpha_start", 0.1, 0.99)
        trial.suggest_float("alpha_end", 0.0, 0.99)
        trial.suggest_float("alpha_when", 0.25, 0.9)
