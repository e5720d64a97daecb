"""Gather and check the metrics of the students, and derive those of their trial.

The metrics of every student have its letter (`a/validation/accuracy`). The setting
`search.students` selects the students that the plain names describe.
"""

import math
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from orchestrator.config.objectives import primary_goal, unlettered
from orchestrator.config.schema import Search
from orchestrator.config.trial import TrialSpec, recipe_key
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import TrialError
from orchestrator.training.metric_names import TEST_EPOCH, TEST_HIGHEST

Metrics = dict[str, float]


def gather_validation(
    evaluated: dict[str, tuple[Metrics, Tensor]], context: TrialContext, count: int
) -> tuple[dict[str, Metrics], Metrics]:
    """Return each student's metrics on every rank and, for several students, their agreement.

    The agreement is the share of the validation part on which all students agree.

    Args:
        evaluated: The metrics and the predicted classes of each local student, by its letter.
        context: The context of all ranks of the trial.
        count: Number of students.
    """
    if count == 1:
        return {letter: metrics for letter, (metrics, _) in evaluated.items()}, {}
    of_ranks = context.all_gather_object(
        {letter: (metrics, classes.cpu()) for letter, (metrics, classes) in evaluated.items()}
    )
    validation = {
        letter: metrics
        for of_rank in reversed(of_ranks)
        for letter, (metrics, _) in of_rank.items()
    }
    agreeing = samples = 0
    for first in range(0, len(of_ranks), count):  # ranks of the same share
        predictions = [
            classes
            for of_rank in of_ranks[first : first + count]
            for _, classes in of_rank.values()
        ]
        agreeing += int(
            torch.stack([classes == predictions[0] for classes in predictions]).all(dim=0).sum()
        )
        samples += len(predictions[0])
    return {letter: validation[letter] for letter in sorted(validation)}, {
        "pair/agreement": agreeing / samples
    }


def gather_metrics(
    local: dict[str, Metrics], context: TrialContext, count: int
) -> dict[str, Metrics]:
    """Return the metrics of every student of the trial on every rank.

    Args:
        local: The metrics of each local student, by its letter.
        context: The context of all ranks of the trial.
        count: Number of students.
    """
    if count == 1:
        return local
    return {
        letter: metrics
        for of_rank in reversed(context.all_gather_object(local))
        for letter, metrics in of_rank.items()
    }


def require_finite(epoch: int, by_student: dict[str, Metrics], spec: TrialSpec) -> None:
    """Raise an error if a student has diverged.

    Args:
        epoch: Number of epochs that finished before this one.
        by_student: The metrics of every student, by its letter.
        spec: The specification of the trial.

    Raises:
        TrialError: A metric is not finite.
    """
    diverged = [
        letter
        for letter, metrics in by_student.items()
        if not all(math.isfinite(value) for value in metrics.values())
    ]
    if diverged:
        if len(by_student) > 1:
            students = f" of student{'s' * (len(diverged) > 1)} {' and '.join(diverged)}"
        else:
            students = ""
        recipes = [recipe_key(spec.role, letter) for letter in diverged]
        advice = " or ".join(f"{recipe}.learning_rate" for recipe in recipes)
        raise TrialError(
            f"the loss{students} is not finite in epoch {epoch + 1}: lower {advice}, or set "
            f"{recipes[-1]}.gradient_clip"
        ).with_details(
            f"{recipes[0]}.learning_rate",
            spec.configuration.students[diverged[0]].training.learning_rate,
            "a lower one",
        )


def compute_trial_metrics(by_student: dict[str, Metrics], search: Search) -> Metrics:
    """Return the metrics of the trial, given each student's by its letter.

    The metrics of a single student are those of the trial.
    """
    if len(by_student) == 1:
        return next(iter(by_student.values()))
    lettered = {
        f"{letter}/{name}": value
        for letter, metrics in by_student.items()
        for name, value in metrics.items()
    }
    return (
        lettered
        | _plain_metrics(by_student, search)
        | {"parameters": sum(metrics["parameters"] for metrics in by_student.values())}
    )


def find_highest_test(epochs: Sequence[Metrics]) -> Metrics:
    """Return the highest test accuracy of all epochs, for the trial and for each of its students.

    Args:
        epochs: The metrics of the trial after each epoch.
    """
    return {
        name.replace(TEST_EPOCH, TEST_HIGHEST): max(metrics[name] for metrics in epochs)
        for name in epochs[-1]
        if name.endswith(TEST_EPOCH)
    }


def select_student_metrics(metrics: Metrics, letter: str, several: bool) -> Metrics:
    """Return the metrics of one student, given the trial's.

    Args:
        metrics: The metrics of the trial.
        letter: The letter of the student.
        several: Whether the trial has several students.
    """
    prefix = f"{letter}/" if several else ""
    return {
        name.removeprefix(prefix): value
        for name, value in metrics.items()
        if name.startswith(prefix)
    }


def _plain_metrics(by_student: dict[str, Metrics], search: Search) -> Metrics:
    if search.students in by_student:
        return by_student[search.students]
    if search.students == "min":
        goal = primary_goal(search)
        return max(
            by_student.values(), key=lambda metrics: goal.sign * metrics[unlettered(goal.name)]
        )
    common = [
        name for name in by_student["a"] if all(name in metrics for metrics in by_student.values())
    ]
    return {name: fmean(metrics[name] for metrics in by_student.values()) for name in common}
