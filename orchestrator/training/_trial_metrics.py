"""The metrics of a trial from those of its students. Knows names and numbers.

Every student's stand under its letter (`a/validation/accuracy`); the plain names are those of whom `search.students` says.
"""

from statistics import fmean

from orchestrator.config.objectives import unlettered, watched_metrics
from orchestrator.config.schema import Search

Metrics = dict[str, float]


def trial_metrics(of: dict[str, Metrics], search: Search) -> Metrics:
    """The metrics of the trial, given each student's by its letter; a student that is alone is the trial."""
    if len(of) == 1:
        return next(iter(of.values()))
    lettered = {f"{letter}/{name}": value for letter, metrics in of.items() for name, value in metrics.items()}
    return lettered | _counted(of, search) | {"parameters": sum(metrics["parameters"] for metrics in of.values())}


def student_metrics(metrics: Metrics, letter: str, several: bool) -> Metrics:
    """The metrics of one student, given the trial's."""
    prefix = f"{letter}/" if several else ""
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


def _counted(of: dict[str, Metrics], search: Search) -> Metrics:
    if search.students in of:
        return of[search.students]
    if search.students == "min":
        goal = watched_metrics(search)
        return max(of.values(), key=lambda metrics: goal.sign * metrics[unlettered(goal.name)])
    common = [name for name in of["a"] if all(name in metrics for metrics in of.values())]
    return {name: fmean(metrics[name] for metrics in of.values()) for name in common}
