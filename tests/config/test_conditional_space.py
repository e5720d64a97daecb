"""Test every branch of a search space: its questions, and the effect of fixed values."""

import itertools
from typing import Any

import pytest

from methods import METHODS
from orchestrator.config.conditional_space import list_branches
from orchestrator.config.loader import load
from orchestrator.sweep.preflight.configuration import check_search
from search_spaces import SPACES
from tests.refusal import refused

KD, AKD = ((f"search.methods=[{name}]", f"method.name={name}") for name in ("kd", "akd"))


@pytest.mark.parametrize("name", SPACES)
def test_branches_are_distinct_and_accepted_by_the_method(name: str) -> None:
    found = list_branches(name, {})
    assert len({str(branch.chosen) for branch in found}) == len(found)
    for branch in found:
        METHODS[name].Settings.build(
            {key: value for key, value in branch.values.items() if "." not in key}
        )
        assert set(branch.chosen) == set(branch.choices)
        assert all(branch.chosen[key] in choices for key, choices in branch.choices.items())


def test_independent_choices_are_combined() -> None:
    fixed = [branch.chosen for branch in list_branches("akd", {"alpha_schedule": "constant"})]
    off, on = ([answers for answers in fixed if answers["cam"] is value] for value in (False, True))
    assert off == [{"cam": False}]
    sizes = {(answers["cam_width"], answers["cam_heads"]) for answers in on}
    assert sizes == set(itertools.product((16, 32), (1, 2, 4))) and len(on) == 6


def test_conditional_parameters_exist_only_in_their_branches() -> None:
    for branch in list_branches("akd", {}):
        learned = branch.chosen["alpha_schedule"] == "learnable"
        assert ("alpha_learning_rate" in branch.continuous) == learned
        assert ("alpha_tau" in branch.ranges) == (branch.chosen.get("alpha_learnable") == "entropy")
        assert ("cam_rho" in branch.ranges) == branch.chosen["cam"]


def test_frozen_values_are_not_suggested_but_are_among_the_values() -> None:
    for branch in list_branches("akd", {"alpha_schedule": "gap", "temperature": 2.5}):
        assert "alpha_schedule" not in branch.choices and "temperature" not in branch.continuous
        assert branch.values["alpha_schedule"] == "gap" and branch.values["temperature"] == 2.5


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (
            ("method.cam=true", "method.cam_heads=32"),
            ("method.cam_width", 16, "a multiple of cam_heads = 32"),
        ),
        (("method.alpha_when=1",), ("method.alpha_when", 1, (0, 1))),
    ],
)
def test_frozen_values_that_conflict_with_a_searched_choice_are_refused(
    pairs: tuple[str, ...], expected: tuple[Any, ...]
) -> None:
    with refused(*expected) as refusal:
        check_search(load(None, [*AKD, *pairs]))
    assert "method akd" in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_frozen_value_that_fits_every_choice_passes() -> None:
    check_search(
        load(None, [*AKD, "method.cam=true", "method.cam_heads=32", "method.cam_width=64"])
    )
    check_search(load(None, [*AKD, "method.alpha_schedule=linear", "method.alpha_when=1"]))


def test_pbt_needs_a_continuous_parameter_in_some_branch() -> None:
    held = (
        "search.scheduler=pbt",
        "method.temperature=4",
        "method.alpha=0.9",
        "search.freeze=[training.learning_rate]",
    )
    check_search(load(None, [*AKD, *held]))
    with refused("search.scheduler", "pbt", "with a continuous setting that is searched"):
        check_search(load(None, [*KD, *held]))
