"""Derive the metrics of a trial from those of its students.

The metrics of every student have its letter (`a/validation/accuracy`). The setting
`search.students` selects the students that the plain names describe.
"""

from statistics import fmean

from orchestrator.config.objectives import primary_goal, unlettered
from orchestrator.config.schema import Search

Metrics = dict[str, float]


def trial_metrics(of: dict[str, Metrics], search: Search) -> Metrics:
    """Return the metrics of the trial, given each student's by its letter.

    The metrics of a single student are those of the trial.
    """
    if len(of) == 1:
        return next(iter(of.values()))
    lettered = {
        f"{letter}/{name}": value
        for letter, metrics in of.items()
        for name, value in metrics.items()
    }
    return (
        lettered
        | _counted(of, search)
        | {"parameters": sum(metrics["parameters"] for metrics in of.values())}
    )


def student_metrics(metrics: Metrics, letter: str, several: bool) -> Metrics:
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


def _counted(of: dict[str, Metrics], search: Search) -> Metrics:
    if search.students in of:
        return of[search.students]
    if search.students == "min":
        goal = primary_goal(search)
        return max(of.values(), key=lambda metrics: goal.sign * metrics[unlettered(goal.name)])
    common = [name for name in of["a"] if all(name in metrics for metrics in of.values())]
    return {name: fmean(metrics[name] for metrics in of.values()) for name in common}
