"""Test declared settings: texts with and without choices, and bounds of every number."""

import io
import math
from typing import Any, Literal

import pytest
from pydantic import Field
from rich.console import Console

from methods import METHODS, Settings, SettingsError, allowed_values, describe_allowed, list_choices
from methods.influence_weighting import ESTIMATORS, InfluenceWeightingSettings
from methods.kd import KD
from methods.sample_weights import MAPS
from methods.settings import Positive
from orchestrator.config.conditional_space import list_branches
from orchestrator.models.build import MODELS
from orchestrator.reporting.terminal import methods_table
from search_spaces import SPACES
from search_spaces.space import Space
from tests.refusal import refused


class Own(Settings):
    """Settings of every type."""

    text: str = Field("logits", description="the name of what is compared")
    mode: Literal["a", "b"] = Field("a", description="one of two")
    count: int = Field(3, description="a whole number")
    weight: Positive = Field(0.5, description="a number above 0")
    ready: bool = Field(False, description="true or false")


OWNERS = {
    **{name: method.Settings for name, method in METHODS.items()},
    **{name: each.settings for name, each in MODELS.items()},
}


@pytest.mark.parametrize("text", ["features", "", "größer", "x" * 200, "a b"])
def test_a_text_without_choices_is_any_text(text: str) -> None:
    assert Own.build({"text": text}).text == text


@pytest.mark.parametrize(
    ("name", "value", "bounds"),
    [
        ("text", 5, str),
        ("text", None, str),
        ("text", True, str),
        ("text", "x" * 201, str),
        ("text", "a\0b", str),
        ("text", "\ud800", str),
        ("mode", "c", ("a", "b")),
        ("count", 10**400, (-1_000_000, 1_000_000)),
        ("count", 1.0, (-1_000_000, 1_000_000)),
        ("weight", 10**400, (1e-9, 1_000_000)),
        ("weight", 1e308, (1e-9, 1_000_000)),
        ("weight", 1e-300, (1e-9, 1_000_000)),
        ("weight", math.nan, (1e-9, 1_000_000)),
        ("weight", "0.5", (1e-9, 1_000_000)),
        ("ready", "yes", bool),
    ],
)
def test_refusal_names_setting_and_allowed_values(name: str, value: Any, bounds: Any) -> None:
    with refused(name, value, bounds, error=SettingsError) as caught:
        Own.build({name: value})
    assert (
        name in str(caught.value)
        and describe_allowed(Own.model_fields[name]) in str(caught.value)
        and len(str(caught.value)) < 700
    )


def test_a_whole_number_is_a_number_and_a_list_is_no_setting() -> None:
    assert Own.build({"weight": 2}) == Own(weight=2.0)
    with pytest.raises(TypeError, match="default"):

        class Listed(Settings):
            several: list[str] = Field([], description="a list")


@pytest.mark.parametrize("name", OWNERS)
def test_every_number_has_bounds(name: str) -> None:
    for setting, field in OWNERS[name].model_fields.items():
        if field.annotation in (int, float):
            bounds: Any = allowed_values(field)
            assert all(map(math.isfinite, bounds)), setting
            assert "inf" not in describe_allowed(field)
            for beyond in (10**400, -(10**400), 1e308, -1e308):
                with refused(setting, beyond, bounds, error=SettingsError):
                    OWNERS[name].build({setting: beyond})


@pytest.mark.parametrize("name", OWNERS)
def test_an_overridden_setting_keeps_its_allowed_values(name: str) -> None:
    for base in OWNERS[name].__mro__[1:]:
        if issubclass(base, Settings):
            for setting, field in base.model_fields.items():
                overridden = OWNERS[name].model_fields[setting]
                assert allowed_values(overridden) == allowed_values(field), setting


def test_other_values_are_checked_too() -> None:
    assert Own(count=4).replace(weight=2) == Own(count=4, weight=2.0)
    with refused("mode", "c", ("a", "b"), error=SettingsError):
        Own().replace(mode="c")


def test_choices_are_the_keys_of_their_tables() -> None:
    fields = InfluenceWeightingSettings.model_fields
    assert list_choices(fields["estimator"]) == tuple(ESTIMATORS)
    assert list_choices(fields["weight_map"]) == tuple(MAPS)


def test_a_method_with_a_text_is_listed_and_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    class Compared(KD):
        """KD with a text setting."""

        Settings = Own  # type: ignore[assignment]

    def suggest(trial: Any) -> None:
        if trial.suggest_categorical("text", ("logits", "features")) == "features":
            trial.suggest_float("weight", 0.1, 1.0)

    monkeypatch.setitem(METHODS, "compared", Compared)
    monkeypatch.setitem(SPACES, "compared", Space(({"text": "logits"},), suggest))
    console = Console(file=io.StringIO(), width=200)
    methods_table.print_methods(console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert (
        "text = 'logits' (a text of at most 200 printable characters): the name of what is compared"
        in printed
    )
    assert "text one of logits, features" in printed
    assert [way.values["text"] for way in list_branches("compared", {})] == ["logits", "features"]
    assert [way.values["text"] for way in list_branches("compared", {"text": "other"})] == ["other"]
