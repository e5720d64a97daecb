"""Test the count of a space's distinct settings, and that none is trained twice, without Ray."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from orchestrator.config.distinct import count_settings, limit_trials, list_branch_domains
from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import draw
from orchestrator.sweep._stateless_sampler import StatelessSampler
from orchestrator.sweep._study import open_study
from orchestrator.sweep.preflight.configuration import check_search
from search_spaces import SPACES, Space, Trial
from tests.refusal import refused

HELD = (
    "search.freeze=[training.learning_rate]",
    "method.name=cross_entropy",
    "search.methods=[cross_entropy]",
)
ONE = (*HELD, "method.label_smoothing=0")


def branching(trial: Trial) -> None:
    """Draw 2 x 3 settings under one form, 4 under the other, and 5 steps: 50 in all."""
    if trial.suggest_categorical("form", ("wide", "narrow")) == "wide":
        trial.suggest_categorical("schedule", ("a", "b"))
        trial.suggest_int("depth", 2, 6, step=2)
    else:
        trial.suggest_int("depth", 1, 4)
    trial.suggest_categorical("always", (1,))
    trial.suggest_float("alpha", 0.0, 1.0, step=0.25)


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SPACES, "cross_entropy", Space((), branching))


def configured(*pairs: str) -> Configuration:
    return load(None, list(pairs))


def drawn(
    configuration: Configuration, count: int, sampler: str = "random", has_value: Any = None
) -> list[dict[str, Any]]:
    """Return the draws of `count` trials; each gets a value, if `has_value` allows it."""
    chosen = configuration.search.model_copy(update={"sampler": sampler})
    study = optuna.create_study(
        sampler=StatelessSampler(chosen, configuration.seed, list_branch_domains(configuration)),
        direction="maximize",
    )
    for number in range(count):
        trial = study.ask()
        draw(trial, configuration)
        if has_value is None or has_value(number):
            study.tell(trial, float(trial.number % 3))
    return [each.params for each in study.trials]


def count_different(found: list[dict[str, Any]]) -> int:
    return len({tuple(sorted(params.items())) for params in found})


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_every_setting_of_a_branching_space_is_drawn_once(space: None, sampler: str) -> None:
    configuration = configured(*HELD)
    assert count_settings(configuration) == 50
    found = drawn(configuration, 50, sampler)
    assert count_different(found) == 50
    assert all(("schedule" in params) == (params["form"] == "wide") for params in found)
    assert count_different(drawn(configuration, 53, sampler)) == 50, "further draws repeat settings"


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_draws_do_not_depend_on_ended_trials(space: None, sampler: str) -> None:
    """TPE uses reported values; trials without one are drawn as at random, and never twice."""
    draws = drawn(configured(*HELD), 40, sampler, has_value=lambda number: number % 3 > 0)
    assert count_different(draws) == 40
    assert drawn(configured(*HELD), 40, sampler, has_value=lambda number: number % 3 > 0) == draws
    if sampler == "random":
        assert drawn(configured(*HELD), 40, sampler, has_value=lambda number: False) == draws


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (ONE, 1),
        ((*ONE, "search.extra_space={student.width: [8, 16], student.depth: [1, 2, 3]}"), 6),
        (HELD, None),
        (("search.methods=[kd]", "method.name=kd"), None),
        ((*ONE, "search.methods=[cross_entropy, kd]"), None),
        (
            (
                "search.methods=[dml]",
                "method.name=dml",
                "peers.b.network.name=mlp",
                "search.freeze=[training.learning_rate]",
            ),
            None,
        ),
        (
            (
                *ONE,
                "search.configurations=[{student.width: 8}, {student.width: 16}]",
                "search.seeds=[1, 2, 3]",
                "search.trials=6",
            ),
            6,
        ),
    ],
)
def test_settings_are_counted(pairs: tuple[str, ...], expected: int | None) -> None:
    assert count_settings(configured(*pairs)) == expected


def test_a_point_outside_the_space_counts() -> None:
    configuration = configured(
        "search.methods=[ttm]",
        "method.name=ttm",
        "method.temperature=4",
        "search.freeze=[training.learning_rate]",
    )
    pinned = configuration.model_copy(
        update={"method": configuration.method.model_copy(update={"form": "additive", "beta": 3.0})}
    )
    assert count_settings(configuration) is None and count_settings(pinned) == 2


def test_a_method_with_one_setting_is_trained_once_among_several_methods() -> None:
    found = drawn(configured(*ONE, "search.methods=[cross_entropy, kd]"), 30)
    methods = [params["method.name"] for params in found]
    assert methods.count("cross_entropy") == 1 and methods.count("kd") == 29


@pytest.mark.parametrize(
    ("trials", "num_existing", "expected"), [(8, 0, 6), (6, 0, 6), (3, 0, 3), (9, 7, 7)]
)
def test_a_sweep_has_no_more_trials_than_settings(
    trials: int, num_existing: int, expected: int
) -> None:
    configuration = configured(
        *ONE,
        "search.extra_space={student.width: [8, 16], student.depth: [1, 2, 3]}",
        f"search.trials={trials}",
    )
    limited, note = limit_trials(configuration, num_existing)
    assert limited.search.trials == expected
    assert bool(note) == (expected < trials)
    if note:
        assert note.startswith(f"search.trials = {trials} was reduced to {expected}")
        assert "cross_entropy has only 6 different settings" in note


def test_equal_settings_in_a_list_are_refused_and_seeds_repeat_them() -> None:
    several = "search.configurations=[{method.name: kd}, {method.name: kd, alpha: 0.9}]"
    with refused("search.configurations[1]", {"method.name": "kd", "alpha": 0.9}, "each once"):
        check_search(
            configured("search.methods=[kd]", "method.name=kd", several, "search.trials=2")
        )
    other = several.replace("0.9", "0.8")
    check_search(
        configured(
            "search.methods=[kd]", "method.name=kd", other, "search.seeds=[1, 2]", "search.trials=4"
        )
    )


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_an_interrupted_sweep_has_the_settings_of_an_uninterrupted_one(
    space: None, sampler: str, tmp_path: Path
) -> None:
    configuration = configured(*HELD, f"search.sampler={sampler}", "search.trials=30")

    def settings(folder: str, stops: int) -> list[dict[str, Any]]:
        (tmp_path / folder).mkdir()
        study = open_study(tmp_path / folder, configuration, resume=False)
        for number in range(30):
            if number == stops:
                study = open_study(tmp_path / folder, configuration, resume=True)
            trial = study.ask()
            draw(trial, configuration)
            study.tell(trial, float(number % 4))
        return [each.params for each in study.trials]

    whole = settings("whole", 0)
    assert settings("broken", 17) == whole and count_different(whole) == 30
