"""Show the records of a sweep from Python: tables, HTML, Optuna, search spaces of functions."""

import html
import importlib
import subprocess
import sys
import warnings
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import optuna
import pytest
import ray

import search_spaces
from orchestrator import api as od
from orchestrator.api._networks import read_network
from orchestrator.api._objects import Objects
from orchestrator.api._results import Study
from orchestrator.api._space import check_spaces, read_spaces, register_spaces
from orchestrator.config.loader import load
from orchestrator.config.search_space import draw
from orchestrator.core.errors import PreflightError
from orchestrator.extensions.code_identity import code_identity
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep._study import open_study
from orchestrator.sweep.changed_configuration import require_same
from orchestrator.sweep.space_snapshot import described_space
from search_spaces import SPACES
from tests.api.conftest import TwoLayers
from tests.refusal import refused

EVIL = "<script>alert(1)</script>"


class Tags(HTMLParser):
    """Parser that collects the tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def study(store: Path) -> Study:
    """Return a study of three trials, of which one has failed."""
    opened = Store.open(store)
    configuration = load(None, ["search.trials=3", "method.name=kd"])
    sweep = Sweep.create(opened.sweep("mine"), configuration, "sweep")
    optuna_study = open_study(sweep.folder, configuration, resume=False)
    values = {0: 0.5, 1: 0.9, 2: None}
    for number, value in values.items():
        asked = optuna_study.ask()
        params = draw(asked, configuration)
        trial = Trial(number, params, "failed", message=EVIL)
        if value is not None:
            metrics = {"validation/accuracy": value}
            trial = Trial(number, params, "complete", value, 2, metrics, [0.1, value])
            optuna_study.tell(asked, value)
        else:
            optuna_study.tell(asked, state=optuna.trial.TrialState.FAIL)
        sweep.save_trial(trial)
    return Study("mine", opened, Sweep.open(opened, "mine"), Objects())


def test_the_frame_has_a_row_for_each_trial(study: Study) -> None:
    frame = study.frame()
    assert list(frame["trial"]) == [0, 1, 2]
    assert list(frame["state"]) == ["complete", "complete", "failed"]
    assert frame.loc[1, "validation/accuracy"] == 0.9
    assert list(frame["temperature"]) == [each.params["temperature"] for each in study.trials]
    assert study.best.number == 1 and study.best.metrics == {"validation/accuracy": 0.9}
    assert list(study.best.history["validation/accuracy"]) == [0.1, 0.9]
    settings = study.best.settings
    assert settings["method"]["temperature"] == study.best.params["temperature"]


def test_results_has_the_trials_of_all_runs(study: Study, store: Path) -> None:
    Sweep.create(Store.open(store).sweep("other"), load(None, []), "train")
    frame = od.results(store)
    assert list(frame["run"]) == ["mine"] * 3
    assert set(frame["method"]) == {"kd"} and set(frame["student"]) == {"mlp"}
    for name in ("sweep.json", "sweep.copy.json"):
        (store / "sweeps" / "other" / name).write_text("damaged")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert len(od.results(store)) == 3
    assert any("other" in str(each.message) for each in caught)


def test_optuna_gets_a_copy(study: Study, store: Path) -> None:
    journal = store / "sweeps" / "mine" / "study.log"
    before = journal.read_bytes()
    copy = study.to_optuna()
    assert [trial.value for trial in copy.trials] == [0.5, 0.9, None]
    assert copy.best_params == study.best.params
    copy.tell(copy.ask(), 1.0)
    assert journal.read_bytes() == before


def test_html_is_escaped(study: Study) -> None:
    for trial in study._sweep.trials.values():
        trial.params = trial.params | {"name": EVIL}
    for shown in (study, study.best):
        page = Tags(shown._repr_html_())
        assert "script" not in page.tags and EVIL in page.text, html.escape(EVIL)
        assert {"p", "table"} <= page.tags


def test_the_methods_of_a_comparison_can_be_one_text(study: Study) -> None:
    for methods in ("kd", ["kd"]):
        with refused("--methods", ("kd",)):
            study.compare(methods)
    for methods in ("kd, wttmm", ["kd", "wttmm"]):
        with refused("--methods", "wttmm"):
            study.compare(methods)


def test_a_study_refuses_networks_that_have_changed(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "width", 8)
    network = read_network(lambda: TwoLayers(10, width), "student", {})  # type: ignore[name-defined]  # noqa: F821
    assert network.function is not None
    changed = replace(study, _objects=Objects((network.function,)))
    with refused("--methods"):
        changed.compare("none")
    monkeypatch.setitem(globals(), "width", 9)
    for call in (changed.report, changed.best.export, lambda: changed.compare("kd,wttm")):
        with refused(network.function.name):
            call()


def test_a_study_without_results_explains_why(study: Study) -> None:
    study._sweep.trials = {2: study._sweep.trials[2]}
    with refused("name", "mine") as caught:
        _ = study.best
    assert EVIL in str(caught.value)


def space(trial: Any) -> None:
    trial.suggest_float("temperature", 1.0, 6.0)
    if trial.suggest_categorical("alpha_schedule", ["constant", "linear"]) == "constant":
        trial.suggest_float("alpha", 0.2, 0.8)
    trial.suggest_float("training.learning_rate", 0.01, 0.2, log=True)


def test_a_function_is_the_space_of_its_method_within_the_block() -> None:
    configuration, before = load(None, ["method.name=kd"]), dict(SPACES)
    spaces = read_spaces(space, ["kd"])
    restore = register_spaces(spaces)
    try:
        check_spaces(configuration, spaces)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        drawn = [draw(study.ask(), configuration) for _ in range(20)]
    finally:
        restore()
    assert before == search_spaces.SPACES
    assert {"temperature", "alpha_schedule", "training.learning_rate"} <= drawn[0].keys()
    assert all(1 <= each["temperature"] <= 6 for each in drawn)
    assert all(("alpha" in each) == (each["alpha_schedule"] == "constant") for each in drawn)


def bad_name(trial: Any) -> None:
    trial.suggest_float("temprature", 1.0, 6.0)


def bad_low_end(trial: Any) -> None:
    trial.suggest_float("training.learning_rate", -1.0, 1.0)


def bad_high_end(trial: Any) -> None:
    trial.suggest_float("temperature", 1.0, 1e9)
    trial.suggest_float("data.validation", 0.1, 1.5)


def bad_branch(trial: Any) -> None:
    if trial.suggest_categorical("form", ["convex", "additive"]) == "additive":
        trial.suggest_float("beta", -1.0, 0.8)


def bad_call(trial: Any) -> None:
    trial.suggest_uniform("temperature", 1.0, 6.0)


@pytest.mark.parametrize(
    ("suggest", "field"),
    [
        (bad_name, "temprature"),
        (bad_low_end, "training.learning_rate"),
        (bad_high_end, "data.validation"),
        (bad_branch, "beta"),
        (bad_call, "space"),
    ],
)
def test_draws_are_checked_at_the_ends_of_every_branch(suggest: Any, field: str) -> None:
    configuration, spaces = load(None, ["method.name=kd"]), read_spaces(suggest, ["kd"])
    restore = register_spaces(spaces)
    try:
        with refused(field):
            check_spaces(configuration, spaces)
    finally:
        restore()


def test_spaces_of_several_methods() -> None:
    spaces = read_spaces({"kd": space}, ["kd", "wttm"])
    assert set(spaces) == {"kd"}
    with refused("space", "ttm", ("kd", "wttm")):
        read_spaces({"ttm": space}, ["kd", "wttm"])
    with refused("space"):
        read_spaces(3, ["kd"])


def test_a_resume_compares_the_code_of_the_function(study: Study) -> None:
    configuration, sweep = study._sweep.configuration, study._sweep

    def hidden(trial: Any) -> None:
        if trial.suggest_float("temperature", 1.0, 6.0) > 3:
            trial.suggest_float("alpha", 0.2, 0.8)

    def changed(trial: Any) -> None:
        if trial.suggest_float("temperature", 1.0, 6.0) > 4:
            trial.suggest_float("alpha", 0.2, 0.8)

    def described(suggest: Any) -> dict[str, Any]:
        restore = register_spaces(read_spaces(suggest, ["kd"]))
        try:
            return described_space(configuration, "sweep")
        finally:
            restore()

    sweep.described = described(hidden)
    require_same(sweep, described(hidden))
    with refused("--resume"):
        require_same(sweep, described(changed))
    assert "functions" not in described_space(configuration, "sweep")


def test_the_identity_of_a_function_is_that_of_its_code() -> None:
    def function(code: CodeType) -> Any:
        return FunctionType(code, {})

    code = bad_name.__code__
    moved = code.replace(co_filename="other.py", co_firstlineno=code.co_firstlineno + 9)
    other = code.replace(co_consts=tuple(7.0 if each == 6.0 else each for each in code.co_consts))
    assert code_identity(function(moved)) == code_identity(bad_name)
    assert code_identity(function(other)) != code_identity(bad_name)


def test_the_identity_of_a_class_is_that_of_its_members() -> None:
    def make(value: int) -> type:
        class Made:
            width = value

            def forward(self) -> int:
                return self.width

        return Made

    class Other:
        width = 1

        def forward(self) -> int:
            return self.width + 1

    assert code_identity(make(1)) == code_identity(make(1))
    assert len({code_identity(each) for each in (make(1), make(2), Other)}) == 3


def test_a_sweep_refuses_a_process_that_is_connected_to_ray(
    store: Path, data: od.Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with refused("ray", error=PreflightError):
        od.sweep(lambda: TwoLayers(10, 8), None, data, "cross_entropy", store=store)


def test_importing_the_package_is_cheap() -> None:
    code = """
import sys
import orchestrator as od
assert callable(od.data) and callable(od.teacher) and callable(od.sweep)
assert not {"torch", "ray", "pandas", "optuna"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_packages_can_be_called() -> None:
    from orchestrator import data, sweep, teacher

    package: Any = importlib.import_module("orchestrator")
    assert repr(package.data("digits")) == repr(od.data("digits")) == "Data(digits)"
    assert repr(package.teacher("mlp", width=4)) == "Teacher(mlp, to be trained)"
    assert all(callable(getattr(package, name)) for name in package.__all__)
    assert all(getattr(package, name) is getattr(od, name) for name in ("Data", "Study"))
    assert package.data is data is sys.modules["orchestrator.data"]
    assert package.sweep is sweep and package.teacher is teacher
