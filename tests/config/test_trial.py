"""Test the configuration of a trial from its searched parameters."""

import copy
import json
from pathlib import Path

import pytest

from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import key_value
from orchestrator.config.trial import TrialSpec, apply, network_key, student_folder
from tests.refusal import refused


def test_a_bare_name_is_a_setting_of_the_method_and_a_dotted_one_a_key() -> None:
    base = load(None, ["training.epochs=7"])
    made = apply(base, {"temperature": 2.0, "training.learning_rate": 0.3, "data.limit.train": 50})
    assert made.method.name == "kd" and made.method.settings == {"temperature": 2.0}
    assert made.training == base.training.model_copy(update={"learning_rate": 0.3})
    assert made.data.limit.train == 50 and made.student == base.student


def test_frozen_values_stay_with_searched_ones() -> None:
    base = load(None, ["method.name=kd", "method.form=additive", "method.temperature=9"])
    assert apply(base, {"beta": 3.0}).method.settings == {
        "form": "additive",
        "temperature": 9,
        "beta": 3.0,
    }
    assert apply(base, {"temperature": 1.5}).method.settings == {
        "form": "additive",
        "temperature": 1.5,
    }


def test_with_several_methods_the_settings_stand_under_the_chosen_one() -> None:
    base = load(None, ["method.name=kd", "method.form=additive", "search.methods=[kd, ttm]"])
    chosen = apply(
        base,
        {
            "method.name": "ttm",
            "ttm.temperature": 3.0,
            "ttm.alpha": 0.5,
            "training.learning_rate": 0.2,
        },
    )
    assert chosen.method.name == "ttm" and chosen.method.settings == {
        "temperature": 3.0,
        "alpha": 0.5,
    }
    assert chosen.training.learning_rate == 0.2
    own = apply(base, {"method.name": "kd", "kd.beta": 2.0})
    assert own.method.settings == {"form": "additive", "beta": 2.0}, (
        "held settings belong to the method that was configured"
    )


def test_nothing_searched_changes_nothing() -> None:
    base = load(None, ["method.temperature=3", "student.name=cnn", "teacher=null"])
    assert apply(base, {}) == base


def test_the_base_is_not_changed() -> None:
    base = load(None, ["method.temperature=3"])
    before = base.plain()
    apply(base, {"temperature": 1.0, "training.epochs": 2})
    assert base.plain() == before


@pytest.mark.parametrize(
    ("key", "value"),
    [("training.learning_rate", -1.0), ("training.epochs", 2.5), ("training.nothing", 1)],
)
def test_a_value_that_does_not_fit_is_refused_in_a_sentence(key: str, value: float) -> None:
    with refused(key, value) as raised:
        apply(Configuration(), {key: value})
    assert "\n" not in str(raised.value)


def test_a_specification_travels_as_json_and_pickled() -> None:
    spec = TrialSpec(
        name="trial-00001",
        configuration=load(None, ["method.temperature=3", "student.name=cnn", "student.width=3"]),
        folder=Path("/some/folder"),
        data=Path("/some/data"),
        teacher=Path("/some/teacher"),
    )
    assert TrialSpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec
    assert copy.copy(spec) == spec  # through __reduce_ex__, as in pickle


def test_a_student_has_one_place_in_a_checkpoint_and_one_key_of_its_network() -> None:
    configuration = load(None, ["peers.b.network.name=cnn"])
    assert [student_folder(letter) for letter in configuration.students] == [".", "b"]
    assert [
        key_value(configuration, network_key(letter))["name"] for letter in configuration.students
    ] == ["mlp", "cnn"]
