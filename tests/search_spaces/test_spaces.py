"""Test the invariants of every entry of SPACES against the settings of its method."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from methods import METHODS
from search_spaces import SPACES

every_space = pytest.mark.parametrize("name", SPACES)
every_point = pytest.mark.parametrize(
    ("name", "point"),
    [
        pytest.param(name, point, id=f"{name}-{i}")
        for name in SPACES
        for i, point in enumerate(SPACES[name].points)
    ],
)


class Replay:
    """A trial that returns fixed values, refuses others, and records the names."""

    def __init__(self, held: dict[str, Any]) -> None:
        self.held = held
        self.drawn: list[str] = []

    def _take(self, name: str) -> Any:
        assert name not in self.drawn, f"{name} is drawn twice"
        self.drawn.append(name)
        return self.held[name]

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        value = self._take(name)
        assert low < high
        assert low > 0 or not log
        assert isinstance(value, float)
        assert low <= value <= high, f"{name} = {value} is outside [{low}, {high}]"
        return value

    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int:
        value = self._take(name)
        assert isinstance(value, int)
        assert low <= value <= high, f"{name} = {value} is outside [{low}, {high}]"
        return value

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        value = self._take(name)
        # one: a sweep may fix another
        assert value in choices or len(choices) == 1, f"{name} = {value} is none of {choices}"
        return value


class Draw(Replay):
    """A trial that draws values that are not fixed at random, and records them."""

    def __init__(self, seed: int, held: dict[str, Any] | None = None) -> None:
        super().__init__(dict(held or {}))
        self.random = random.Random(seed)

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        self.held.setdefault(name, self.random.choice([low, high, self.random.uniform(low, high)]))
        return super().suggest_float(name, low, high, log=log, step=step)

    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int:
        self.held.setdefault(name, self.random.randrange(low, high + 1, step))
        return super().suggest_int(name, low, high, log=log, step=step)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        held = name in self.held
        self.held.setdefault(name, self.random.choice(list(choices)))
        return self._take(name) if held else super().suggest_categorical(name, choices)


def of_method(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that are settings of the method; configuration keys have a dot."""
    return {name: value for name, value in values.items() if "." not in name}


def test_every_method_has_a_space_and_the_other_way_round() -> None:
    assert list(SPACES) == list(METHODS)


@every_space
def test_space_has_points(name: str) -> None:
    assert SPACES[name].points


@every_point
def test_point_is_accepted_by_the_method(name: str, point: dict[str, Any]) -> None:
    given = of_method(point)
    built = METHODS[name].Settings.build(given)
    assert {key: getattr(built, key) for key in given} == given


@every_point
def test_point_can_be_drawn(name: str, point: dict[str, Any]) -> None:
    trial = Replay(point)
    SPACES[name].suggest(trial)
    assert set(trial.drawn) == set(point)


@every_space
def test_first_point_holds_the_defaults_of_the_method(name: str) -> None:
    settings = METHODS[name].Settings()
    for key, value in of_method(SPACES[name].points[0]).items():
        assert getattr(settings, key) == value


@every_space
def test_drawn_values_are_accepted(name: str) -> None:
    for seed in range(50):
        trial = Draw(seed)
        SPACES[name].suggest(trial)
        given = of_method(trial.held)
        built = METHODS[name].Settings.build(given)
        assert {key: getattr(built, key) for key in given} == given


@every_space
def test_learning_rate_is_searched_alike(name: str) -> None:
    trial = Draw(0)
    SPACES[name].suggest(trial)
    assert "training.learning_rate" in trial.drawn
    assert all(key.startswith("training.") for key in trial.drawn if "." in key)


@every_space
def test_suggest_returns_none(name: str) -> None:
    assert SPACES[name].suggest(Draw(0)) is None


@pytest.mark.parametrize("name", ["kd", "ttm", "wttm"])
def test_held_additive_form_is_searched_by_beta(name: str) -> None:
    for seed in range(50):
        trial = Draw(seed, {"form": "additive"})
        SPACES[name].suggest(trial)
        assert "beta" in trial.drawn
        assert "alpha" not in trial.drawn
        given = of_method(trial.held)
        built = METHODS[name].Settings.build(given)
        assert {key: getattr(built, key) for key in given} == given


def test_wttm_searches_the_parameters_of_ttm() -> None:
    first, second = Draw(0), Draw(0)
    SPACES["ttm"].suggest(first)
    SPACES["wttm"].suggest(second)
    assert first.held == second.held


def test_certainty_settings_are_drawn_only_if_used() -> None:
    for seed in range(50):
        trial = Draw(seed)
        SPACES["dual_student"].suggest(trial)
        held = trial.held
        assert ("w_norm" in held) == (held["certainty"] != "none")
        assert ("certainty_temperature" in held) == (
            held["certainty"] != "none" or held["peer_weight"] == "1-w"
        )


def test_dual_students_begin_with_the_ablation_of_both_parts_at_weights_that_sum_to_one() -> None:
    points = SPACES["dual_student"].points
    cells = {(point["certainty"] != "none", point["lambda_peer"] > 0) for point in points}
    assert cells == {(False, False), (False, True), (True, False), (True, True)}
    for point in points:
        assert point["lambda_ce"] + point["lambda_kd"] + point["lambda_peer"] == pytest.approx(1)


def test_methods_with_peers_search_the_same_peer_settings() -> None:
    drawn = []
    for name in ("dml", "dual_student"):
        trial = Draw(0)
        SPACES[name].suggest(trial)
        drawn.append(
            set(trial.drawn)
            & {"peer_temperature", "peer_warmup", "update", "lambda_peer", "training.learning_rate"}
        )
    assert len(drawn[0]) == 5 and drawn[0] == drawn[1]
