"""Test the checks of feature maps before a run, and their line in the plan."""

import pytest

from methods.feature_maps import MapShape
from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.training.capabilities.feature_maps_checks import check_feature_maps, maps_line
from tests.refusal import refused

SHAPE, CLASSES = (1, 8, 8), 10
CNN = ("student.name=cnn", "student.width=4", "teacher.network={name: cnn, width: 6}")
MIDDLE = {"stage2": MapShape(12, 4, 4)}


def configured(*pairs: str) -> Configuration:
    return load(None, ["method.name=fitnet", *CNN, *pairs])


def test_maps_of_the_teacher_that_are_used_are_returned() -> None:
    assert check_feature_maps(configured(), False, CLASSES, SHAPE) == MIDDLE
    kd = load(None, ["method.name=kd", *CNN])
    assert check_feature_maps(kd, False, CLASSES, SHAPE) == {}


def test_networks_of_all_students_and_searched_methods_are_checked() -> None:
    methods = "search.methods=[kd, attention_transfer]"
    check_feature_maps(load(None, [methods, *CNN]), True, CLASSES, SHAPE)
    with_mlp = load(None, [methods, *CNN, "peers.b.network={name: mlp, width: 8}"])
    with refused("method.stages", 0, "stages with several positions"):
        check_feature_maps(with_mlp, True, CLASSES, SHAPE)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (("method.teacher_stage=7",), ("method.teacher_stage", 7, (0, 3))),
        (("training.compile=true",), ("training.compile", True, (False,))),
        (
            ("method.name=attention_transfer", "student={name: mlp, width: 8}"),
            ("method.stages", 0, "stages with several positions"),
        ),
    ],
)
def test_maps_that_do_not_suit_are_refused(
    pairs: tuple[str, ...], expected: tuple[str, object, object]
) -> None:
    with refused(*expected):
        check_feature_maps(configured(*pairs), False, CLASSES, SHAPE)


@pytest.mark.parametrize(
    ("pairs", "cached", "clean", "expected"),
    [
        ((), True, True, "stage2 12x4x4; 375 KiB in the cache, once for all trials"),
        ((), True, False, "computed online at every step, because the views differ"),
        ((), False, True, "computed online at every step, as all outputs of the teacher"),
        (("teacher.cache_gib=0.0005",), True, True, "because 375 KiB are more than half of"),
    ],
)
def test_plan_states_what_the_maps_cost(
    pairs: tuple[str, ...], cached: bool, clean: bool, expected: str
) -> None:
    line = maps_line(configured(*pairs), MIDDLE, 1000, cached, clean)
    assert expected in line
    assert maps_line(configured(), {}, 1000, cached, clean) == ""
