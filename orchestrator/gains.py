"""What a student has of its peer: its accuracy beside its own in the best single-student KD of its sweep. Knows records alone."""

from typing import NamedTuple

from orchestrator.records import Sweep, Trial

BASELINE = "kd"


class Gain(NamedTuple):
    """Differences in accuracy of one student to `baseline`, the number of the KD trial that is its best on validation."""

    baseline: int
    validation: float
    test: float


def baselines(sweep: Sweep) -> dict[str, Trial]:
    """By letter, the complete KD trial in which that student is the best on validation; empty where KD was not searched."""
    if not sweep.configuration.peers:
        return {}
    trials = [trial for trial in sweep.ranked() if trial.state == "complete" and _method(sweep, trial) == BASELINE]
    letters = sweep.configuration.students if trials else ()
    return {letter: max(trials, key=lambda trial: (_validation(trial, letter), -trial.number)) for letter in letters}


def gains(sweep: Sweep, trial: Trial) -> dict[str, Gain]:
    """By letter, the gain of each student of a complete trial whose students hear one another; empty for any other trial."""
    from methods import METHODS  # torch, which `status` does without

    if trial.state != "complete" or not METHODS[_method(sweep, trial)].needs.peer:
        return {}
    return {
        letter: Gain(
            alone.number,
            _validation(trial, letter) - _validation(alone, letter),
            _test(trial, letter) - _test(alone, letter),
        )
        for letter, alone in baselines(sweep).items()
    }


def _method(sweep: Sweep, trial: Trial) -> str:
    return str(trial.settings.get("method.name", sweep.configuration.method.name))


def _validation(trial: Trial, letter: str) -> float:
    return trial.metrics[f"{letter}/validation/accuracy"]


def _test(trial: Trial, letter: str) -> float:
    return trial.metrics[f"{letter}/test/last/accuracy"]
