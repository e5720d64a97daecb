"""Test `search.space`: what it changes of the draws, the checks, the points and a resume."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from orchestrator.config.distinct import count_settings
from orchestrator.config.loader import build, load
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import (
    count_excluded_points,
    draw,
    list_initial_points,
    list_space_branches,
)
from orchestrator.config.trial import Parameters, apply
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep import changed_configuration
from orchestrator.sweep.comparison.design import base, plan_runs_over_seeds, search_of
from orchestrator.sweep.preflight.configuration import check_search
from orchestrator.sweep.space_snapshot import described_space, list_space_changes
from tests.refusal import ANY, refused
from tests.sweep.studies import begin, resumed

PEER, RATE = "peers.b.network.name=mlp", "peers.b.training.learning_rate"
SEVERAL = ("search.methods=[kd, akd]", "method.name=kd")


def configured(*pairs: str) -> Configuration:
    """Return a checked configuration, which is the same after a round trip through JSON."""
    configuration = load(None, list(pairs))
    check_search(configuration)
    assert build(configuration.plain()) == configuration
    return configuration


def drawn(configuration: Configuration, count: int = 20) -> list[Parameters]:
    """Return the draws of trials after the initial points."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    first = len(list_initial_points(configuration))
    return [draw(study.ask(), configuration) for _ in range(first + count)][first:]


def distributions(configuration: Configuration) -> dict[str, optuna.distributions.BaseDistribution]:
    """Return the distributions of all parameters that 20 trials draw."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        draw(study.ask(), configuration)
    return {name: kind for trial in study.trials for name, kind in trial.distributions.items()}


def test_a_range_replaces_that_of_the_space_and_keeps_its_scale() -> None:
    found = distributions(
        configured(
            "search.space={kd.temperature: [1, 6], alpha: {high: 0.5}, "
            "training.learning_rate: {low: 0.01, high: 0.2, log: false}}"
        )
    )
    assert found == {
        "temperature": optuna.distributions.FloatDistribution(1, 6, log=True),
        "alpha": optuna.distributions.FloatDistribution(0.1, 0.5),
        "training.learning_rate": optuna.distributions.FloatDistribution(0.01, 0.2),
    }


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("student.width", "[4, 16]", optuna.distributions.IntDistribution(4, 16)),
        (
            "student.width",
            "{low: 4, high: 64, log: true}",
            optuna.distributions.IntDistribution(4, 64, log=True),
        ),
        (
            "training.batch_size",
            "{low: 32, high: 96, step: 32}",
            optuna.distributions.IntDistribution(32, 96, step=32),
        ),
        ("student.width", "[4, 8, 16]", optuna.distributions.CategoricalDistribution((4, 8, 16))),
        (
            "student.width",
            "{choices: [4, 16]}",
            optuna.distributions.CategoricalDistribution((4, 16)),
        ),
        ("training.momentum", "[0.5, 0.9]", optuna.distributions.FloatDistribution(0.5, 0.9)),
        (
            "training.gradient_clip",
            "[1.0, null]",
            optuna.distributions.CategoricalDistribution((1.0, None)),
        ),
        (
            "training.nesterov",
            "[true, false]",
            optuna.distributions.CategoricalDistribution((True, False)),
        ),
    ],
)
def test_a_key_that_is_not_in_the_space_is_added(
    key: str, value: str, expected: optuna.distributions.BaseDistribution
) -> None:
    configuration = configured(f"search.space={{{key}: {value}}}")
    assert distributions(configuration)[key] == expected
    section, _, name = key.rpartition(".")
    for parameters in drawn(configuration, 3):
        trained = apply(configuration, parameters).plain()[section][name]
        assert trained == parameters[key] and type(trained) is type(parameters[key])


def test_numeric_choices_of_a_space_become_a_range_of_their_type() -> None:
    found = distributions(
        configured(
            "method.name=kd_aif",
            "search.space={every: [1, 6], momentum: [0.0, 0.5], estimator: [exact, cg]}",
        )
    )
    assert found["every"] == optuna.distributions.IntDistribution(1, 6)
    assert found["momentum"] == optuna.distributions.FloatDistribution(0, 0.5)
    assert found["estimator"] == optuna.distributions.CategoricalDistribution(("exact", "cg"))


def test_fewer_choices_remove_branches_and_conditions_stay() -> None:
    configuration = configured(
        *SEVERAL, "search.space={akd.alpha_schedule: [constant, linear], akd.cam_rho: [2, 3]}"
    )
    for branch in list_space_branches(configuration, "akd"):
        linear = branch.chosen["alpha_schedule"] == "linear"
        assert ("alpha_start" in branch.ranges) == linear == ("alpha" not in branch.ranges)
        assert branch.ranges.get("cam_rho") == ((2, 3, True) if branch.chosen["cam"] else None)
    several = [each for each in drawn(configuration) if each["method.name"] == "akd"]
    assert {each["akd.alpha_schedule"] for each in several} == {"constant", "linear"}
    assert all(("akd.cam_rho" in each) == each["akd.cam"] for each in several)


def test_a_single_choice_is_trained_even_if_it_is_not_the_default() -> None:
    configuration = configured(
        "method.name=akd", "search.space={alpha_schedule: [constant], cam: [false]}"
    )
    for parameters in drawn(configuration, 5):
        settings = apply(configuration, parameters).method.settings
        assert (settings["alpha_schedule"], settings["cam"]) == ("constant", False)
        assert "alpha" in parameters and "alpha_ema" not in parameters


def test_finitely_many_settings_are_counted() -> None:
    space = "{temperature: [2, 3, 4], alpha: {choices: [0.5, 0.9]}, training.learning_rate: [0.1]}"
    assert count_settings(configured(f"search.space={space}")) == 3 * 2
    stepped = (
        "{temperature: {low: 1, high: 3, step: 0.5}, alpha: [0.9], training.learning_rate: [0.05]}"
    )
    assert count_settings(configured(f"search.space={stepped}")) == 5


def test_a_setting_without_a_method_is_that_of_every_method_that_has_it() -> None:
    methods = "search.methods=[kd, ttm, cross_entropy]"
    shared = configured(methods, "search.space={temperature: [2, 3]}")
    named = configured(methods, "search.space={kd.temperature: [2, 3], ttm.temperature: [2, 3]}")
    under_method = configured(methods, "search.space.method.temperature=[2, 3]")
    assert drawn(shared) == drawn(named) == drawn(under_method)
    assert drawn(configured(methods)) != drawn(shared)


def test_learning_rates_of_peers_are_changed_one_by_one() -> None:
    configuration = configured(
        PEER, "search.methods=[kd, ttm]", f"search.space={{{RATE}: {{low: 0.1}}}}"
    )
    found = distributions(configuration)
    assert found[RATE] == optuna.distributions.FloatDistribution(0.1, 0.5, log=True)
    assert found["training.learning_rate"].low == 0.005  # type: ignore[attr-defined]
    for point in list_initial_points(configuration):
        assert (point["training.learning_rate"], point[RATE]) == (0.05, 0.1), "the nearest value"
    assert list_space_changes(configuration) == [
        f"{RATE} was 0.005 to 0.5, logarithmic and is now 0.1 to 0.5, logarithmic"
    ]


def test_points_of_a_method_outside_the_changed_space_are_left_out() -> None:
    configuration = configured(
        "search.methods=[kd, ttm]", "search.space={temperature: [3, 3.9], student.width: [20, 30]}"
    )
    assert count_excluded_points(configuration) == {"kd": 1, "ttm": 1}
    (point,) = list_initial_points(configuration)
    assert point["ttm.temperature"] == pytest.approx(10 / 3)
    assert point["student.width"] == 20, "the nearest value to the configured 16"
    excluded = configured("method.name=ttm", "search.space={form: [convex]}")
    assert count_excluded_points(excluded) == {"ttm": 1}
    assert len(list_initial_points(excluded)) == 1


@pytest.mark.parametrize(
    ("pairs", "field", "allowed"),
    [
        (["{temperature: 3}"], "search.space.temperature", ANY),
        (["{temperature: {}}"], "search.space.temperature", ANY),
        (["{temperature: []}"], "search.space.temperature.choices", "one or more different values"),
        (["{temperature: [2, 2, 3]}"], "search.space.temperature.choices", ANY),
        (["{temperature: [6, 1]}"], "search.space.temperature.low", (None, 1)),
        (["{temperature: {low: 0, log: true}}"], "search.space.temperature.low", (0, None)),
        (["{temperature: {low: 1, step: 1}}"], "search.space.temperature.step", ANY),
        (["{temperature: {low: 1, high: 2, step: 0.3}}"], "search.space.temperature.high", ANY),
        (["{temperature: {low: 1, choices: [2]}}"], "search.space.temperature.choices", ANY),
        (["{temperature: {low: 1, hgh: 2}}"], "search.space.temperature.hgh", ANY),
        (["{temperature: {low: 12}}"], "search.space.temperature", "low below high"),
        (["{temperature: [0.5, 1e9]}"], "search.space.temperature", (0.001, 10000)),
        (["{alpha: [0, 2]}"], "search.space.alpha", (0, 1)),
        (["{temperature: [low, high]}"], "search.space.temperature", (0.001, 10000)),
        (["{form: [convex, other]}"], "search.space.form", ("convex", "additive")),
        (["{form: [1, 2]}"], "search.space.form", "choices"),
        (["{beta: [1, 2]}"], "search.space.beta", "with the choice that it depends on"),
        (["{kd.temprature: [1, 2]}"], "search.space.kd.temprature", ANY),
        (["{akd.cam_rho: [1, 2]}"], "search.space.akd.cam_rho", ("kd",)),
        (["{cam_rho: [1, 2]}"], "search.space.cam_rho", ANY),
        (["{temperature: [1, 2], kd.temperature: [1, 2]}"], "search.space.temperature", "once"),
        (["{data.seed: [1, 2]}"], "search.space", "one value for the sweep"),
        (["{training.epochs: [1, 2]}"], "search.space", "one value for the sweep"),
        (["{training.lr: [1, 2]}"], "search.space.training.lr", ANY),
        (["{trainig.momentum: [0, 1]}"], "search.space.trainig.momentum", ANY),
        (["{kdd.temperature: [1, 2]}"], "search.space.kdd.temperature", ANY),
        (["{training: [1, 2]}"], "search.space.training", ANY),
        (["{training.learning_rate: [0, 1]}"], "search.space.training.learning_rate", (0, 1e30)),
        (["{student.width: [0, 8]}"], "search.space.student.width", (1, 1000000)),
        (["{student.width: [4.5, 8]}"], "search.space.student.width", int),
        (["{student.width: {low: 4}}"], "search.space.student.width", "low and high"),
        (["{student.wdth: [4, 8]}"], "search.space.student.wdth", ANY),
        (["{student.name: [1, 2]}"], "search.space.student.name", "choices"),
        (["{temperature: [1, 2]}", "method.temperature=3"], "search.space.temperature", ANY),
        (
            ["{training.learning_rate: [0.1, 0.2]}", "search.freeze=[training.learning_rate]"],
            "search.space.training.learning_rate",
            "not in search.freeze",
        ),
        (
            ["{student.width: [4, 8]}", "search.extra_space={student.width: [4, 8]}"],
            "search.space.student.width",
            "not in search.extra_space",
        ),
        (
            ["{temperature: [1, 2]}", "search.configurations=[{alpha: 0.5}]", "search.trials=1"],
            "search.space",
            "without search.configurations",
        ),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(
    pairs: list[str], field: str, allowed: object
) -> None:
    space, *others = pairs
    with refused(field, allowed=allowed) as refusal:
        configured(f"search.space={space}", *others)
    assert "search.space" in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_parameter_of_a_frozen_branch_is_refused() -> None:
    with refused("search.space.cam_rho") as refusal:
        configured("method.name=akd", "method.cam=false", "search.space={cam_rho: [2, 3]}")
    assert "cam = True" in str(refusal.value)


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("search.space.kd.temperature=[2, 3]", {"low": 2, "high": 3}),
        ("search.space.kd.temperature.high=3", {"low": 1, "high": 3}),
        ("search.space.kd.temperature.step=0.5", {"low": 1, "high": 6, "step": 0.5}),
    ],
)
def test_the_command_line_changes_a_range_of_the_file(
    pair: str, expected: dict[str, float], tmp_path: Path
) -> None:
    for text in ("{kd.temperature: [1, 6]}", "{kd: {temperature: {low: 1, high: 6}}}"):
        (tmp_path / "mine.yaml").write_text(f"search: {{space: {text}}}")
        space = load(tmp_path / "mine.yaml", [pair]).plain()["search"]["space"]
        assert space == {"kd.temperature": expected}


def test_a_comparison_searches_the_part_of_each_method() -> None:
    common = base(
        configured(
            "search.methods=[kd, ttm]",
            "search.space={kd.temperature: [2, 3], alpha: [0.2, 0.4], student.width: [8, 16]}",
            "search.points=[{kd.temperature: 2.5}, {method.name: ttm, alpha: 0.3}]",
        ),
        ["kd", "ttm", "cross_entropy"],
        2,
    )
    searches = {name: search_of(common, name) for name in ("kd", "ttm", "cross_entropy")}
    assert {name: set(each.search.space) for name, each in searches.items()} == {
        "kd": {"kd.temperature", "alpha", "student.width"},
        "ttm": {"alpha", "student.width"},
        "cross_entropy": {"student.width"},
    }
    assert searches["kd"].search.points == ({"temperature": 2.5},)
    assert searches["ttm"].search.points == ({"alpha": 0.3},)
    for each in searches.values():
        check_search(each)
    chosen = {name: list_initial_points(each)[0] for name, each in searches.items()}
    check_search(plan_runs_over_seeds(common, chosen, 2))


def test_an_interrupted_sweep_draws_the_same_from_its_changed_space(tmp_path: Path) -> None:
    pairs = (
        "search.space={temperature: [1, 6], form: [convex, additive], student.width: [8, 16]}",
        "search.points=[{temperature: 2}]",
        "search.trials=8",
    )
    sweep, searcher = begin(tmp_path / "whole", *pairs)
    for number in range(8):
        searcher.suggest(str(number))
    whole = [trial.params for trial in sweep.trials.values()]
    sweep, searcher = begin(tmp_path / "broken", *pairs)
    for number in range(3):
        searcher.suggest(str(number))
    found, searcher = resumed(sweep)
    for number in range(8):
        searcher.suggest(str(number))
    assert [trial.params for trial in found.trials.values()] == whole
    assert whole[0]["temperature"] == 2 and len(whole) == 8
    assert {trial["form"] for trial in whole} == {"convex", "additive"}


def test_another_space_at_a_resume_is_refused(tmp_path: Path) -> None:
    one, other = (
        configured("method.name=kd", f"search.space={{temperature: [1, {high}]}}")
        for high in (6, 5)
    )
    sweep = Sweep.create(
        Store.open(tmp_path).sweep("mine"), one, "sweep", described_space(one, "sweep")
    )
    changed_configuration.require_same(sweep, described_space(one, "sweep"))
    with refused("--resume") as refusal:
        changed_configuration.require_same(sweep, described_space(other, "sweep"))
    assert refusal.value.value == (
        "temperature was 1 to 6, logarithmic and is now 1 to 5, logarithmic",
    )
    file = tmp_path / "mine.yaml"
    file.write_text("search: {space: {temperature: [1, 6]}}")
    changed_configuration.change_configuration(sweep, None, None, file)
    file.write_text("search: {space: {temperature: [1, 5]}}")
    with refused("--config"):
        changed_configuration.change_configuration(sweep, None, None, file)


def test_pbt_needs_a_continuous_parameter_of_the_changed_space() -> None:
    choices: dict[str, Any] = {"temperature": [2, 3, 4], "alpha": [0.5, 0.7, 0.9]}
    space = f"search.space={{temperature: {choices['temperature']}, alpha: {choices['alpha']}}}"
    freeze = "search.freeze=[training.learning_rate]"
    with refused("search.scheduler", "pbt"):
        configured("search.scheduler=pbt", freeze, space)
    configured("search.scheduler=pbt", freeze, space.replace("[2, 3, 4]", "[2, 3]"))
