"""Test the space of a sweep: fixed settings are not drawn, and the initial trials."""

from collections.abc import Sequence
from typing import Any

import optuna
import pytest

from methods import METHODS, build_method
from methods.capabilities import uses_peers
from orchestrator.config.loader import build, load
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import (
    draw,
    list_initial_points,
    searched_methods,
    with_single_method,
)
from orchestrator.config.trial import apply
from search_spaces import SPACES
from search_spaces.space import LEARNING_RATES


class Low:
    """A trial that returns the lowest value, except for the method, and records its questions."""

    def __init__(self, method: str = "") -> None:
        self.method = method
        self.answers: dict[str, Any] = {}

    @property
    def suggested(self) -> list[str]:
        return list(self.answers)

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        self.answers[name] = low
        return low

    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int:
        self.answers[name] = low
        return low

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        assert name != "method.name" or self.method in choices
        self.answers[name] = self.method if name == "method.name" else choices[0]
        return self.answers[name]


def configured(*pairs: str) -> Configuration:
    return load(None, list(pairs))


def test_parameters_of_a_single_method_have_no_prefix() -> None:
    trial = Low()
    drawn = draw(trial, configured())
    assert trial.suggested == ["temperature", "alpha", "training.learning_rate"], (
        "`form` has one choice, which is no question"
    )
    assert drawn == {"temperature": 1.0, "alpha": 0.1, "training.learning_rate": 0.005}


@pytest.mark.parametrize("name", SPACES)
def test_a_trial_trains_with_drawn_and_frozen_values(name: str) -> None:
    direct, configuration = Low(), configured(f"method.name={name}")
    SPACES[name].suggest(direct)
    made = METHODS[name].Settings.build(
        apply(configuration, draw(Low(), configuration)).method.settings
    )
    answers = {key: value for key, value in direct.answers.items() if "." not in key}
    assert answers and {key: getattr(made, key) for key in answers} == answers


def test_frozen_values_are_not_suggested() -> None:
    trial = Low()
    drawn = draw(
        trial, configured("method.temperature=3", "search.freeze=[training.learning_rate]")
    )
    assert trial.suggested == list(drawn) == ["alpha"]


def test_the_additive_form_suggests_beta() -> None:
    trial = Low()
    drawn = draw(trial, configured("method.form=additive"))
    assert trial.suggested == ["temperature", "beta", "training.learning_rate"]
    assert "form" not in drawn and "alpha" not in drawn


@pytest.mark.parametrize("method", ["kd", "ttm", "cross_entropy"])
def test_several_methods_have_settings_under_their_names_and_keys_in_common(method: str) -> None:
    trial = Low(method)
    configuration = configured("search.methods=[kd, ttm, cross_entropy]", "method.temperature=3")
    drawn = draw(trial, configuration)
    assert trial.suggested[0] == "method.name" and drawn["method.name"] == method
    expected = {
        "kd": {"kd.alpha"},
        "ttm": {"ttm.temperature", "ttm.alpha"},
        "cross_entropy": {"cross_entropy.label_smoothing"},
    }
    assert set(trial.suggested[1:]) == expected[method] | {"training.learning_rate"}
    assert list(drawn) == trial.suggested
    assert apply(configuration, drawn).method.name == method


def test_every_point_is_a_configuration() -> None:
    several = configured(f"search.methods=[{', '.join(SPACES)}]")
    for configuration in (several, *(configured(f"method.name={name}") for name in SPACES)):
        assert list_initial_points(configuration)
        for point in list_initial_points(configuration):
            made = apply(configuration, point)
            assert made.training.learning_rate == point["training.learning_rate"]


def test_initial_points_of_several_methods_alternate() -> None:
    methods = ("cross_entropy", "ttm", "kd", "wttm")
    order = [
        point["method.name"]
        for point in list_initial_points(configured(f"search.methods=[{', '.join(methods)}]"))
    ]
    left = {name: len(SPACES[name].points) for name in methods}
    expected = []
    while any(left.values()):
        for name in methods:
            if left[name]:
                expected.append(name)
                left[name] -= 1
    assert order == expected


def test_points_omit_frozen_values_and_are_unique() -> None:
    held = configured(
        "method.name=ttm", "method.temperature=2", "search.freeze=[training.learning_rate]"
    )
    first = list_initial_points(held)
    assert all(
        "temperature" not in point and "training.learning_rate" not in point for point in first
    )
    given = (
        "method.form=convex",
        "method.alpha_schedule=constant",
        "method.alpha=0.5",
        "method.temperature=2",
    )
    assert (
        list_initial_points(
            configured("method.name=ttm", *given, "search.freeze=[training.learning_rate]")
        )
        == []
    )
    same = configured("method.name=ttm", *given)
    assert list_initial_points(same) == [{"training.learning_rate": 0.05}], (
        "the published point has another form"
    )


def test_points_that_become_equal_are_tried_once() -> None:
    alike = configured(
        "method.name=akd",
        "method.temperature=2",
        "method.cam_rho=2",
        "search.freeze=[training.learning_rate]",
    )
    assert (
        len(list_initial_points(alike))
        == len({str(point) for point in list_initial_points(alike)})
        == len(SPACES["akd"].points)
    )
    ratios = configured(
        "method.name=akd",
        "method.alpha_schedule=gap",
        "method.alpha_gap=ratio",
        "method.alpha_ema=0.0",
    )
    assert list_initial_points(ratios) == [
        {"temperature": 4.0, "cam": False, "training.learning_rate": 0.05},
        {
            "temperature": 4.0,
            "cam": True,
            "cam_width": 32,
            "cam_heads": 4,
            "cam_rho": 4.0,
            "training.learning_rate": 0.05,
        },
    ]
    given = ("method.alpha=0.5", "method.temperature=2", "search.freeze=[training.learning_rate]")
    assert list_initial_points(
        configured("search.methods=[kd, ttm]", "method.name=ttm", *given)
    ) == [{"method.name": "kd", "kd.temperature": 4.0, "kd.alpha": 0.9}, {"method.name": "ttm"}], (
        "both points of ttm come to the same"
    )


def test_a_point_that_contradicts_a_frozen_choice_is_dropped() -> None:
    fixed = list_initial_points(configured("method.name=akd", "method.alpha_schedule=constant"))
    assert fixed == [
        {"alpha": 0.9, "temperature": 4.0, "cam": False, "training.learning_rate": 0.05}
    ]
    assert list_initial_points(configured("method.name=akd", "method.alpha_schedule=linear")) == []
    assert list_initial_points(configured("method.name=kd", "method.form=additive")) == []
    assert all(
        "cam_rho" not in point
        for point in list_initial_points(configured("method.name=akd", "method.cam=false"))
    )


PEER, RATE = "peers.b.network.name=mlp", "peers.b.training.learning_rate"


def test_the_learning_rates_of_all_students_are_searched_in_the_same_bounds() -> None:
    trial = Low("ttm")
    drawn = draw(trial, configured(PEER, "peers.c.network.name=cnn", "search.methods=[kd, ttm]"))
    assert trial.suggested[-2:] == [RATE, RATE.replace(".b.", ".c.")], (
        "keys have no method before them"
    )
    assert drawn[RATE] == drawn["training.learning_rate"] == LEARNING_RATES[0]
    assert RATE not in draw(Low(), configured())


@pytest.mark.parametrize(("pairs", "rate"), [((), 0.05), ((f"{RATE}=0.3",), 0.3)])
def test_a_frozen_peer_rate_is_its_own_or_that_of_student_a(
    pairs: tuple[str, ...], rate: float
) -> None:
    configuration = configured(PEER, f"search.freeze=[{RATE}]", *pairs)
    assert all(RATE not in point for point in list_initial_points(configuration))
    drawn = draw(Low(), configuration)
    assert RATE not in drawn
    made = apply(configuration, drawn | {"training.learning_rate": 0.05})
    assert made.students["b"].training.learning_rate == rate


@pytest.mark.parametrize("several", [False, True])
def test_the_learning_rate_of_a_point_applies_to_every_student(
    several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = SPACES["ttm"].points[0]
    other = SPACES["ttm"]._replace(points=(first, {**first, "training.learning_rate": 0.2}))
    monkeypatch.setitem(SPACES, "ttm", other)
    configuration = configured(
        PEER,
        f"search.methods=[{'kd, ttm' if several else 'ttm'}]",
        "method.name=ttm",
        f"{RATE}=0.4",
    )
    found = list_initial_points(configuration)
    assert len({point[RATE] for point in found}) == 2, "the points of ttm have two rates"
    for point in found:
        made = apply(configuration, point)
        rates = {
            letter: student.training.learning_rate for letter, student in made.students.items()
        }
        assert rates == dict.fromkeys("ab", point["training.learning_rate"])


def test_extra_space_is_searched_with_every_method() -> None:
    chosen = (
        "search.extra_space={student.width: [8, 16, 32], peers.b.network.depth: [1, 2], "
        "training.batch_size: [32, 128]}"
    )
    configuration = configured(PEER, chosen, "search.methods=[kd, ttm]", "student.width=16")
    trial = Low("kd")
    drawn = draw(trial, configuration)
    assert trial.suggested[-3:] == ["student.width", "peers.b.network.depth", "training.batch_size"]
    made = apply(configuration, drawn)
    assert made.student.settings["width"] == 8 and made.peers["b"].network.settings == {"depth": 1}
    assert made.students["b"].training.batch_size == 32
    for point in list_initial_points(configuration):
        named = (
            point["student.width"],
            point["peers.b.network.depth"],
            point["training.batch_size"],
        )
        assert named == (16, 2, 32), (
            "the configured value, or the network's default, where it is among them, else the first"
        )


@pytest.mark.parametrize(
    ("choice", "first_value"),
    [
        ("student.width: [8, 32]", 32),  # the default of a cnn
        ("student.name: [mlp, cnn]", "cnn"),
        ("student.depth: [1, 2]", 1),  # of another network
        ("peers.b.training.weight_decay: [0.001, 0.0005]", 0.0005),  # as for student a
        ("peers.b.training.momentum: [0.9, 0.5]", 0.5),
        ("training.momentum: [0.5, 0.9]", 0.9),
    ],
)
def test_initial_points_have_the_configured_value_of_extra_space(
    choice: str, first_value: object
) -> None:
    configuration = configured(
        "student.name=cnn",
        PEER,
        "peers.b.training.momentum=0.5",
        f"search.extra_space={{{choice}}}",
    )
    key = choice.partition(":")[0]
    assert {point[key] for point in list_initial_points(configuration)} == {first_value}


def test_initial_points_have_null_if_nothing_is_configured() -> None:
    configuration = configured("search.extra_space={training.gradient_clip: [1.0, null]}")
    assert [point["training.gradient_clip"] for point in list_initial_points(configuration)] == [
        None
    ]


@pytest.mark.parametrize("name", SPACES)
def test_a_single_searched_method_becomes_the_configured_one(name: str) -> None:
    peers = ["peers.b.network.name=mlp"] if uses_peers(build_method(name, {})) else []
    configuration = with_single_method(load(None, [f"search.methods=[{name}]", *peers]))
    drawn = draw(optuna.create_study().ask(), configuration)
    trained = apply(configuration, drawn)
    assert trained.method.name == name == searched_methods(configuration)[0]
    METHODS[name].Settings.build(trained.method.settings)


def test_several_methods_and_settings_of_another_one_leave_the_method_alone() -> None:
    for methods, settings in (
        (["wttm", "ttm"], {}),
        (["wttm"], {"alpha": 0.5}),
        (["kd"], {"alpha": 0.5}),
    ):
        configuration = build(
            {"search": {"methods": methods}, "method": {"name": "kd", **settings}}
        )
        assert with_single_method(configuration).method.name == "kd"


PUBLISHED = {
    "ttm": {"form": "additive", "normalize": False, "temperature": 10 / 3, "beta": 7.0},
    "wttm": {
        "form": "additive",
        "normalize": False,
        "mean_power_sum": False,
        "temperature": 10 / 3,
        "beta": 1.5,
    },
}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_point_outside_the_space_is_trained_unchanged(name: str, several: bool) -> None:
    configuration = configured(f"search.methods=[{'kd, ' * several}{name}]", f"method.name={name}")
    study = optuna.create_study()
    first = list_initial_points(configuration)
    for point in first:
        study.enqueue_trial(point)
    trained = [apply(configuration, draw(study.ask(), configuration)) for _ in range(20)]
    own = [trial for trial in trained if trial.method.name == name]
    assert own[1].method.settings == PUBLISHED[name] and own[1].training.learning_rate == 0.05
    assert all("form" not in trial.method.settings for trial in own[:1] + own[2:]), (
        "no other parameters are drawn"
    )
    assert [study.trials[number].params for number in range(len(first))] == first


@pytest.mark.parametrize(
    "pair",
    [
        "method.alpha=0.5",
        "method.form=convex",
        "method.alpha_schedule=linear",
        "method.normalize=true",
    ],
)
def test_a_point_outside_the_space_that_ignores_a_frozen_value_is_dropped(pair: str) -> None:
    assert not any(
        "beta" in point
        for point in list_initial_points(
            configured("search.methods=[ttm]", "method.name=ttm", pair)
        )
    )
    kept = list_initial_points(
        configured("search.methods=[ttm]", "method.name=ttm", "method.temperature=2")
    )
    assert kept[1] == {
        "form": "additive",
        "normalize": False,
        "beta": 7.0,
        "training.learning_rate": 0.05,
    }
