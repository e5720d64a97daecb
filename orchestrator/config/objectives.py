"""What a search looks for: the metrics that can be an objective, their directions, and who dominates whom. Knows no study.

Of several objectives the first is the one that is *watched*: curves, `best` and importance are of it.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from orchestrator.config.schema import LETTERS, Configuration, Search

Direction = Literal["maximize", "minimize"]
PARAMETERS = "parameters"
BETTER: Mapping[str, tuple[Direction, ...]] = {  # the metrics of every epoch, with the directions that make sense
    "validation/accuracy": ("maximize",),
    "validation/worst_class_accuracy": ("maximize",),
    "validation/class_gap": ("minimize",),
    "validation/agreement": ("maximize",),
    "validation/nll": ("minimize",),
    "validation/ece": ("minimize",),
    "validation/entropy": ("minimize", "maximize"),
    "train/loss": ("minimize",),
}


class Goal(NamedTuple):
    """An objective with its direction."""

    name: str
    direction: Direction

    @property
    def sign(self) -> float:
        """What makes a smaller value the better one."""
        return -1.0 if self.direction == "maximize" else 1.0


def goals(search: Search) -> tuple[Goal, ...]:
    """The objectives of a search that was checked: the one, or the several with the directions that follow from their names."""
    if not search.objectives:
        return (Goal(search.objective, search.direction),)
    return tuple(Goal(name, _direction(name)) for name in search.objectives)


def watched_metrics(search: Search) -> Goal:
    """The objective, or the first of several."""
    return goals(search)[0]


def count_objectives(configuration: Configuration) -> str:
    """Whose metrics are the trial's, in words: `mean of a, b`; empty of one student."""
    if not configuration.peers:
        return ""
    letters, students = ", ".join(configuration.students), configuration.search.students
    return {"mean": f"mean of {letters}", "min": f"the worst of {letters}"}.get(students, f"of {students}")


def describe_objective(configuration: Configuration, name: str) -> str:
    """An objective as a person reads it: `validation/accuracy (mean of a, b)` where there are several students."""
    how = f"sum of {', '.join(configuration.students)}" if name == PARAMETERS else count_objectives(configuration)
    return f"{name} ({how})" if configuration.peers and unlettered(name) == name else name


def has_several_objectives(configuration: Configuration) -> list[str]:
    """What can be one of several objectives: metrics with one direction, of the trial or of each student, and sizes."""
    names = [name for name, directions in BETTER.items() if len(directions) == 1] + [PARAMETERS]
    names = [name for name in names if name != "validation/agreement" or configuration.teacher]
    letters = configuration.students if configuration.peers else ()
    return names + [f"{letter}/{name}" for letter in letters for name in names]


def pareto_front(points: Mapping[int, Sequence[float]], directions: Sequence[Goal]) -> list[int]:
    """The keys of the points that no other one dominates: is nowhere worse and somewhere better. Equal points stay together."""
    lower = {key: [goal.sign * value for goal, value in zip(directions, point, strict=True)] for key, point in points.items()}
    return [key for key, point in lower.items() if not any(_dominates(other, point) for other in lower.values())]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(mine <= theirs for mine, theirs in zip(one, other, strict=True)) and one != other


def unlettered(name: str) -> str:
    """A metric without the letter of the student whose it is."""
    first, slash, rest = name.partition("/")
    return rest if slash and first in tuple(LETTERS) else name


def _direction(name: str) -> Direction:
    return "minimize" if unlettered(name) == PARAMETERS else BETTER[unlettered(name)][0]
