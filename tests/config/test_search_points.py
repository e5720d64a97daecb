"""Test `search.points`: initial trials before those of the methods."""

import optuna
import pytest

from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import draw, list_initial_points
from orchestrator.config.trial import apply
from orchestrator.sweep.preflight.configuration import check_search
from tests.refusal import ANY, refused

RATE = "training.learning_rate"


def configured(*pairs: str) -> Configuration:
    configuration = load(None, list(pairs))
    check_search(configuration)
    return configuration


def test_points_precede_those_of_the_methods_and_have_defaults() -> None:
    own = list_initial_points(configured())
    assert list_initial_points(configured("search.points=[{temperature: 2}, {alpha: 0.5}]")) == [
        {"temperature": 2.0, "alpha": 0.9, RATE: 0.05},
        {"temperature": 4.0, "alpha": 0.5, RATE: 0.05},
        *own,
    ]
    equal = configured("search.points=[{temperature: 4, training.learning_rate: 0.05}]")
    assert list_initial_points(equal) == own, "a point that a method has, too, is trained once"


def test_what_a_point_leaves_out_is_configured_or_the_nearest_value() -> None:
    configuration = configured(
        "peers.b.network.name=mlp",
        "training.learning_rate=0.01",
        "student.width=64",
        "search.space={temperature: [5, 6], student.width: {low: 8, high: 24, step: 8}}",
        "search.extra_space={peers.b.network.depth: [1, 2]}",
        "search.points=[{kd.alpha: 0.3}, {training.learning_rate: 0.2, student.width: 8}]",
    )
    first, second = list_initial_points(configuration)[:2]
    rate = f"peers.b.{RATE}"
    assert first == {
        "temperature": 5.0,
        "alpha": 0.3,
        RATE: 0.01,
        "student.width": 24,
        rate: 0.05,
        "peers.b.network.depth": 2,
    }
    assert (second[RATE], second[rate], second["student.width"]) == (0.2, 0.2, 8)


@pytest.mark.parametrize("several", [False, True])
def test_points_are_drawn_by_the_study_as_they_are(several: bool) -> None:
    configuration = configured(
        f"search.methods=[kd{', ttm' * several}]",
        "search.points=[{kd.temperature: 3}, {method.name: kd, form: additive, beta: 2}, "
        "{kd.alpha: 0.2}]",
    )
    points, study = list_initial_points(configuration), optuna.create_study()
    for point in points:
        study.enqueue_trial(point)
    assert [draw(study.ask(), configuration) for _ in points] == points
    settings = apply(configuration, points[1]).method.settings
    assert settings == {"temperature": 4.0, "form": "additive", "beta": 2.0}
    later = [draw(study.ask(), configuration) for _ in range(10)]
    assert not any("form" in name for trial in later for name in trial)


@pytest.mark.parametrize(
    ("points", "pairs", "field", "allowed"),
    [
        ("{temperature: 20}", (), "search.points[0].temperature", (1, 10)),
        ("{temperature: hot}", (), "search.points[0].temperature", (1, 10)),
        ("{temperature: [1]}", (), "search.points[0].temperature", ANY),
        ("{temperture: 2}", (), "search.points[0].temperture", ANY),
        ("{beta: 2}", (), "search.points[0].beta", ANY),
        ("{akd.cam: true}", (), "search.points[0].akd.cam", "left out"),
        ("{method.name: akd}", (), "search.points[0].method.name", ("kd",)),
        ("{temperature: 2, kd.temperature: 3}", (), "search.points[0].kd.temperature", "left out"),
        ("{temperature: 2}", ("search.methods=[kd, ttm]",), "search.points[0].method.name", ANY),
        ("{temperature: 2}", ("method.temperature=2",), "search.points[0].temperature", (2,)),
        ("{temperature: 2}, {temperature: 2.0}", (), "search.points[1]", "each once"),
        ("{temperature: 2}, {alpha: 0.5}", ("search.trials=1",), "search.trials", (2, None)),
        (
            "{form: additive}",
            ("search.space={form: [convex]}",),
            "search.points[0].form",
            ("convex",),
        ),
        (
            "{form: additive, beta: 2}",
            ("method.alpha=0.5",),
            "search.points[0]",
            "without method.alpha",
        ),
        (
            "{student.width: 10}",
            ("search.space={student.width: {low: 8, high: 16, step: 4}}",),
            "search.points[0].student.width",
            (8, 16),
        ),
        (
            "{alpha: 0.5}",
            ("search.configurations=[{alpha: 0.1}]", "search.trials=1"),
            "search.points",
            "without search.configurations",
        ),
    ],
)
def test_a_point_that_does_not_fit_the_search_is_refused(
    points: str, pairs: tuple[str, ...], field: str, allowed: object
) -> None:
    with refused(field, allowed=allowed):
        configured(f"search.points=[{points}]", *pairs)


def test_a_point_that_the_method_refuses_is_refused() -> None:
    with refused("search.points[0].cam_width", 16):
        configured(
            "method.name=akd",
            "search.space={cam_heads: [1, 32]}",
            "search.points=[{cam: true, cam_width: 16, cam_heads: 32}]",
        )
