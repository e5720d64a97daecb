"""What a student has of its peers: its accuracy beside that of its own network in single-student KD. Knows records alone.

The baseline is the best of the sweep's KD trials in which the student has the same network: a search may vary that too.
"""

from typing import Any, NamedTuple

from orchestrator.config.trial import apply, network_key
from orchestrator.store.records import Sweep, Trial

BASELINE = "kd"


class Gain(NamedTuple):
    """Differences in accuracy of one student to `baseline`, the number of the KD trial that is its best on validation."""

    baseline: int
    validation: float
    test: float


def baselines(sweep: Sweep, trial: Trial) -> dict[str, Trial]:
    """By letter, the complete KD trial that is the best on validation of those in which the student's network is that of `trial`.

    A student without such a trial has no entry.
    """
    complete = [other for other in sweep.ranked() if other.state == "complete" and _method(sweep, other) == BASELINE]
    found = {}
    for letter in sweep.configuration.students if sweep.configuration.peers else ():
        alike = [other for other in complete if _network(other, letter) == _network(trial, letter) and _known(other, letter)]
        if alike:
            found[letter] = max(alike, key=lambda other: (_validation(other, letter), -other.number))
    return found


def uses_peers(sweep: Sweep, trial: Trial) -> bool:
    """Whether the students of a trial heard one another, by its method and what that was set to."""
    from methods import made  # torch, which `status` does without

    chosen = apply(sweep.configuration, trial.settings).method
    return made(chosen.name, chosen.settings).hears


def peer_gains(sweep: Sweep, trial: Trial) -> dict[str, Gain]:
    """By letter, the gain of each student that has a baseline, of a complete trial whose students heard one another; else none."""
    if trial.state != "complete" or not uses_peers(sweep, trial):
        return {}
    return {
        letter: Gain(
            alone.number,
            _validation(trial, letter) - _validation(alone, letter),
            _test(trial, letter) - _test(alone, letter),
        )
        for letter, alone in baselines(sweep, trial).items()
        if _known(trial, letter) and _known(alone, letter)
    }


def _method(sweep: Sweep, trial: Trial) -> str:
    return str(trial.settings.get("method.name", sweep.configuration.method.name))


def _network(trial: Trial, letter: str) -> dict[str, Any]:
    """What the search chose of a student's network."""
    section = f"{network_key(letter)}."
    return {key: value for key, value in trial.settings.items() if key.startswith(section)}


def _known(trial: Trial, letter: str) -> bool:
    """Whether the record has both accuracies: one that was made anew without its checkpoint has its objective alone."""
    return {f"{letter}/validation/accuracy", f"{letter}/test/last/accuracy"} <= trial.metrics.keys()


def _validation(trial: Trial, letter: str) -> float:
    return trial.metrics[f"{letter}/validation/accuracy"]


def _test(trial: Trial, letter: str) -> float:
    return trial.metrics[f"{letter}/test/last/accuracy"]
