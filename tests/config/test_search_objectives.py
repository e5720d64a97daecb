"""Test objectives: their directions follow from their names, and the front is not dominated."""

import random

import pytest

from orchestrator.config.loader import load
from orchestrator.config.objectives import (
    BETTER,
    PARAMETERS,
    Goal,
    describe_objective,
    goals,
    list_objective_names,
    pareto_front,
    primary_goal,
)


def test_one_objective_has_the_direction_that_is_set() -> None:
    search = load(None, ["search.objective=validation/entropy", "search.direction=minimize"]).search
    assert (
        goals(search) == (("validation/entropy", "minimize"),) and primary_goal(search).sign == 1.0
    )


def test_directions_of_several_follow_from_their_names_and_the_first_is_watched() -> None:
    names = (
        "b/validation/nll, validation/accuracy, parameters, a/parameters, "
        "a/validation/agreement, train/loss"
    )
    search = load(None, [f"search.objectives=[{names}]"]).search
    directions = ["minimize", "maximize", "minimize", "minimize", "maximize", "minimize"]
    assert [goal.direction for goal in goals(search)] == directions
    assert primary_goal(search) == ("b/validation/nll", "minimize"), "and not search.objective"


def test_what_can_be_one_of_several() -> None:
    alone = list_objective_names(load(None, []))
    assert set(alone) == set(BETTER) - {"validation/entropy"} | {"parameters"}
    pair = list_objective_names(load(None, ["peers.b.network.name=mlp", "teacher=null"]))
    assert set(pair) == {
        f"{source}{name}"
        for source in ("", "a/", "b/")
        for name in set(alone) - {"validation/agreement"}
    }


@pytest.mark.parametrize(
    ("students", "source"), [("mean", "mean of a, b"), ("min", "the worst of a, b"), ("b", "of b")]
)
def test_an_objective_is_described_with_its_students(students: str, source: str) -> None:
    pair = load(None, ["peers.b.network.name=mlp", f"search.students={students}"])
    assert describe_objective(pair, "validation/accuracy") == f"validation/accuracy ({source})"
    assert describe_objective(pair, PARAMETERS) == "parameters (sum of a, b)", "whoever counts"
    assert describe_objective(pair, "b/validation/accuracy") == "b/validation/accuracy"
    assert describe_objective(load(None, []), "validation/accuracy") == "validation/accuracy"


def brute_force(points: dict[int, list[float]], directions: list[str]) -> set[int]:
    """Return the points that no other point dominates, by comparing every pair."""
    kept = set()
    for one, mine in points.items():
        beaten = False
        for other, theirs in points.items():
            ahead = behind = 0
            for value, against, direction in zip(mine, theirs, directions, strict=True):
                difference = against - value if direction == "maximize" else value - against
                ahead, behind = ahead + (difference > 0), behind + (difference < 0)
            beaten = beaten or (other != one and ahead > 0 and behind == 0)
        if not beaten:
            kept.add(one)
    return kept


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "directions", [["maximize", "minimize"], ["maximize", "minimize", "maximize"]]
)
def test_the_front_is_that_of_brute_force(seed: int, directions: list[str]) -> None:
    generator = random.Random(seed)
    points = {
        number: [float(generator.randrange(6)) for _ in directions] for number in range(25)
    }  # many are equal
    found = pareto_front(
        points,
        [Goal(str(place), direction) for place, direction in enumerate(directions)],  # type: ignore[arg-type]
    )
    assert set(found) == brute_force(points, directions) and len(found) == len(set(found)) > 0


def test_the_front_of_no_points_is_empty() -> None:
    assert pareto_front({}, [Goal("one", "maximize"), Goal("other", "minimize")]) == []
