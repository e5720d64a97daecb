"""Define the objectives of a search: metrics, directions and Pareto dominance.

The first of several objectives is the *primary* one: curves, `best` and importance refer to it.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from orchestrator.config.schema import LETTERS, Configuration, Search
from orchestrator.core.errors import ConfigurationError, suggest_name

Direction = Literal["maximize", "minimize"]
PARAMETERS = "parameters"
# The metrics of every epoch, with their meaningful directions.
BETTER: dict[str, tuple[Direction, ...]] = {
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
    """Objective with its direction."""

    name: str
    direction: Direction

    @property
    def sign(self) -> float:
        """Return the factor that makes smaller values better."""
        return -1.0 if self.direction == "maximize" else 1.0


def list_objectives(search: Search) -> tuple[str, ...]:
    """Return the names of the objectives of a search."""
    return search.objectives or (search.objective,)


def goals(search: Search, recorded: Mapping[str, Direction] | None = None) -> tuple[Goal, ...]:
    """Return the objectives of a checked search, with their directions.

    The directions of several objectives follow from their names.

    Args:
        search: The search.
        recorded: Directions of metrics of user code, which need not be loaded then.

    Raises:
        ConfigurationError: A metric of user code is neither loaded nor recorded.
    """
    if not search.objectives:
        return (Goal(search.objective, search.direction),)
    return tuple(Goal(name, _direction(name, recorded or {})) for name in search.objectives)


def user_directions(search: Search) -> dict[str, Direction]:
    """Return the directions of several objectives that are metrics of user code."""
    names = [name for name in search.objectives if "/my/" in name]
    return {name: _direction(name, {}) for name in names}


def primary_goal(search: Search) -> Goal:
    """Return the objective, or the first of several."""
    return goals(search)[0]


def describe_students(configuration: Configuration) -> str:
    """Return a description of the students whose metrics are the trial's, such as `mean of a, b`.

    The description is empty for one student.
    """
    if not configuration.peers:
        return ""
    letters, students = ", ".join(configuration.students), configuration.search.students
    return {"mean": f"mean of {letters}", "min": f"the worst of {letters}"}.get(
        students, f"of {students}"
    )


def describe_objective(configuration: Configuration, name: str) -> str:
    """Return an objective as display text.

    With several students it is, for example, `validation/accuracy (mean of a, b)`.
    """
    if name == PARAMETERS:
        how = f"sum of {', '.join(configuration.students)}"
    else:
        how = describe_students(configuration)
    return f"{name} ({how})" if configuration.peers and unlettered(name) == name else name


def list_objective_names(configuration: Configuration) -> list[str]:
    """Return the names that can be one of several objectives.

    These are metrics with one direction, of the trial or of each student, and the number of
    parameters.
    """
    names = [name for name, directions in BETTER.items() if len(directions) == 1] + [PARAMETERS]
    if not configuration.named_teachers:
        names.remove("validation/agreement")
    letters = configuration.students if configuration.peers else ()
    return names + [f"{letter}/{name}" for letter in letters for name in names]


def pareto_front(points: Mapping[int, Sequence[float]], directions: Sequence[Goal]) -> list[int]:
    """Return the keys of the points that no other point dominates.

    A point dominates another one if it is worse in no objective and better in at least one. Equal
    points are kept together.

    Args:
        points: The values of each point, in the order of the objectives.
        directions: The objectives.
    """
    lower = {
        key: [goal.sign * value for goal, value in zip(directions, point, strict=True)]
        for key, point in points.items()
    }
    return [
        key
        for key, point in lower.items()
        if not any(_dominates(other, point) for other in lower.values())
    ]


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(mine <= theirs for mine, theirs in zip(one, other, strict=True)) and one != other


def unlettered(name: str) -> str:
    """Return the name of a metric without the letter of its student."""
    first, slash, rest = name.partition("/")
    return rest if slash and first in tuple(LETTERS) else name


def _direction(name: str, recorded: Mapping[str, Direction]) -> Direction:
    metric = unlettered(name)
    if metric == PARAMETERS:
        return "minimize"
    if name in recorded:
        return recorded[name]
    if metric not in BETTER:
        raise ConfigurationError(
            f"search.objectives: the direction of {name} is unknown: {suggest_name(metric, BETTER)}"
        ).with_details("search.objectives", name, tuple(BETTER))
    return BETTER[metric][0]
