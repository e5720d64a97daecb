"""Compute each student's gain in accuracy from peer learning, against single-student KD.

The baseline is the best of the sweep's KD trials in which the student has the same network. A
search may vary the network too.
"""

from typing import NamedTuple

from orchestrator.config.trial import Parameters, apply, network_key
from orchestrator.store.records import Sweep, Trial

BASELINE = "kd"


class Gain(NamedTuple):
    """Differences in accuracy of one student to its baseline.

    `baseline` is the number of the KD trial that is the student's best on validation.
    """

    baseline: int
    validation: float
    test: float


def baselines(sweep: Sweep, trial: Trial) -> dict[str, Trial]:
    """Return the baseline of each student by letter.

    The baseline is the complete KD trial that is best on validation, among those in which the
    student has the network of `trial`. A student without such a trial has no entry.
    """
    complete = [
        other
        for other in sweep.ranked()
        if other.state == "complete" and _method(sweep, other) == BASELINE
    ]
    best = {}
    for letter in sweep.configuration.students if sweep.configuration.peers else ():
        alike = [
            other
            for other in complete
            if _network(other, letter) == _network(trial, letter) and _known(other, letter)
        ]
        if alike:
            best[letter] = max(alike, key=lambda other: (_validation(other, letter), -other.number))
    return best


def uses_peers(sweep: Sweep, trial: Trial) -> bool:
    """Return whether the students of a trial learn from each other, by its method and settings."""
    # it imports torch, which `status` does not need
    from methods import METHODS, build_method, capabilities

    chosen = apply(sweep.configuration, trial.settings).method
    if chosen.name not in METHODS:  # of user code, which `status` does not load
        return False
    return capabilities.uses_peers(build_method(chosen.name, chosen.settings))


def peer_gains(sweep: Sweep, trial: Trial) -> dict[str, Gain]:
    """Return the gain of each student that has a baseline, by letter.

    The result is empty unless the trial is complete and its students learn from each other.
    """
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


def _network(trial: Trial, letter: str) -> Parameters:
    """Return the searched settings of a student's network."""
    section = f"{network_key(letter)}."
    return {key: value for key, value in trial.settings.items() if key.startswith(section)}


def _known(trial: Trial, letter: str) -> bool:
    """Return whether the record has both accuracies.

    A record that was rebuilt without its checkpoint has only its objective.
    """
    return {f"{letter}/validation/accuracy", f"{letter}/test/last/accuracy"} <= trial.metrics.keys()


def _validation(trial: Trial, letter: str) -> float:
    return trial.metrics[f"{letter}/validation/accuracy"]


def _test(trial: Trial, letter: str) -> float:
    return trial.metrics[f"{letter}/test/last/accuracy"]
