"""Test the checks of feature maps before a run, and their line in the plan."""

import pytest

from methods.feature_maps import MapShape
from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.training.capabilities.feature_maps_checks import (
    check_feature_maps,
    maps_line,
    select_cached_maps,
)
from tests.refusal import refused

SHAPE, CLASSES = (1, 8, 8), 10
CNN = ("student.name=cnn", "student.width=4", "teacher.network={name: cnn, width: 6}")
MIDDLE = {"stage2": MapShape(12, 4, 4)}


def configured(*pairs: str) -> Configuration:
    return load(None, ["method.name=fitnet", *CNN, *pairs])


def test_maps_of_the_teacher_that_are_used_are_returned() -> None:
    assert check_feature_maps(configured(), False, CLASSES, SHAPE) == [MIDDLE]
    kd = load(None, ["method.name=kd", *CNN])
    assert check_feature_maps(kd, False, CLASSES, SHAPE) == []


def test_batch_of_one_sample_suits_a_method_without_batch_norm() -> None:
    check_feature_maps(configured("training.batch_size=1"), False, CLASSES, SHAPE)
    review = ("method.name=review_kd", "training.batch_size=2", "resources.workers=2")
    synced = configured(*review, "training.sync_batch_norm=true")
    check_feature_maps(synced, False, CLASSES, SHAPE)


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
        (
            ("method.regressor=released", "training.batch_size=1"),
            ("training.batch_size", 1, (2, None)),
        ),
        (
            ("method.name=review_kd", "training.batch_size=2", "resources.workers=2"),
            ("training.batch_size", 2, (4, None)),
        ),
        (("training.compile=true",), ("training.compile", True, (False,))),
        (("training.compile=step",), ("training.compile", "step", (False,))),
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
    ("pairs", "cached", "augmentation", "expected"),
    [
        ((), True, "none", "stage2 12x4x4; 375 KiB in the cache, once for all trials"),
        ((), True, "crop", "runs at every step of methods that use them, because the views differ"),
        ((), False, "none", "computed online, as all outputs of the teacher"),
        (("teacher.cache_gib=0.0005",), True, "none", "more than half of teacher.cache_gib"),
    ],
)
def test_plan_states_what_the_maps_cost(
    pairs: tuple[str, ...], cached: bool, augmentation: str, expected: str
) -> None:
    line = maps_line(configured(*pairs), [MIDDLE], 1000, augmentation, cached)
    assert expected in line
    assert maps_line(configured(), [], 1000, augmentation, cached) == ""


def test_maps_of_each_method_are_cached_if_they_fit() -> None:
    large, teacher = {"stage1": MapShape(900, 9, 9)}, configured("teacher.cache_gib=0.01")
    assert select_cached_maps(teacher, [MIDDLE, large], 1000, "none") == MIDDLE
    assert select_cached_maps(teacher, [MIDDLE], 1000, "crop") == {}
