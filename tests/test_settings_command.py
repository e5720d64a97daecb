"""Test the commands that explain settings and methods."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import run
from methods import METHODS
from orchestrator.config.key_fields import find_key, list_keys
from orchestrator.config.loader import load
from orchestrator.core.errors import BAD_CONFIGURATION, OK
from tests.refusal import refused

DEFAULTS = load(None, [])


def call(*words: str) -> str:
    """Return what a command prints; it must succeed."""
    result = CliRunner().invoke(run.app, list(words))
    assert result.exit_code == OK, result.output
    return result.output


def described(*words: str) -> dict[str, Any]:
    return dict(json.loads(call("settings", *words, "--json")))


def test_a_number_is_explained_with_bounds_unit_and_default() -> None:
    assert described("resources.heartbeat_warning_s") == {
        "key": "resources.heartbeat_warning_s",
        "type": "number, > 0, ≤ 31622400",
        "default": 120.0,
        "unit": "s",
        "limits": {"gt": 0, "le": 366 * 24 * 3600},
        "description": "Time without a heartbeat of a trial after which a warning gives the "
        "reason.",
    }
    printed = call("settings", "resources.heartbeat_warning_s")
    assert "unit      s" in printed and "default   120.0" in printed and "value" not in printed


def test_every_key_is_found_and_described() -> None:
    configuration = load(None, ["peers.b.network.name=cnn", "student.name=resnet8"])
    keys = list_keys(configuration)
    assert len(set(keys)) == len(keys)
    assert {
        "seed",
        "training.learning_rate",
        "teacher.training.epochs",
        "teacher.network.width",
        "peers.LETTER.training.momentum",
        "search.space",
        "kd.temperature",
    } <= set(keys)
    for key in keys:
        found = find_key(configuration, key)
        assert found.name == key and found.field is not None


def test_settings_of_a_network_are_those_of_the_selected_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("student: {name: cnn, width: 6}\npeers: {b: {network: {name: mlp}}}")
    assert described("student.depth")["of"] == "network mlp"
    student = described("student.width", "--config", str(file))
    assert (student["of"], student["default"], student["value"]) == ("network cnn", 32, 6)
    peer = described("peers.b.network.width", "--config", str(file), "--set", "student.name=mlp")
    assert (peer["of"], peer["value"]) == ("network mlp", 128), "the default of mlp"
    with refused("student.depth"):
        find_key(load(file, []), "student.depth")


def test_settings_of_methods_have_the_name_of_any_method() -> None:
    own = described("method.temperature", "--set", "method.temperature=3")
    named = described("kd.temperature", "--set", "method.temperature=3")
    assert own["value"] == named["value"] == 3
    assert own | {"key": ""} == named | {"key": ""}
    assert own["limits"] == {"ge": 0.001, "le": 10000}
    assert "value" not in described("akd.temperature", "--set", "method.temperature=3")
    assert described("akd.alpha_gap")["choices"] == ["ratio", "kl", "label", "acc"]
    assert "searched  cam_rho in [1, 8] on a log scale if cam = True" in call(
        "settings", "akd.cam_rho"
    )
    assert [each["key"] for each in described("kd")["keys"]] == [
        f"kd.{name}" for name in METHODS["kd"].Settings.model_fields
    ]


def test_sections_are_listed() -> None:
    printed = call("settings")
    assert [line.split()[0] for line in printed.splitlines()] == list(type(DEFAULTS).model_fields)
    assert described("peers")["keys"][0]["key"] == "peers.LETTER.network"
    limit = call("settings", "data.limit", "--set", "data.limit.train=200")
    assert "data.limit.train = 200 (whole number" in limit and "; samples)" in limit
    assert described("search.space")["keys"][0]["key"] == "search.space.KEY.low"
    assert described("search.space.kd.temperature")["type"] == "mapping (section)"


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("trainig", "did you mean 'training'"),
        ("training.epocs", "did you mean 'epochs'"),
        ("learning_rate", "did you mean training.learning_rate or "),
        ("temperature", "did you mean method.temperature or "),
        ("kd.temprature", "did you mean 'temperature'"),
        ("training.epochs.x", "training.epochs has no keys below it"),
        ("peers.z.network", "did you mean teacher.network or peers.LETTER.network?"),
    ],
)
def test_an_unknown_key_is_refused_with_a_suggestion(key: str, suggestion: str) -> None:
    result = CliRunner().invoke(run.app, ["settings", key])
    assert (result.exit_code, result.output.count("\n")) == (BAD_CONFIGURATION, 1)
    assert f"unknown key {key!r}: {suggestion}" in result.output


def test_one_method_is_explained() -> None:
    printed = call("methods", "wttm")
    assert printed.startswith("wttm\nTTM with divergences weighted")
    for text in (
        "source: Zheng & Yang",
        "needs by default: teacher",
        "  temperature in [1, 10] on a log scale",
        "  form=convex, alpha_schedule=constant, temperature=4",
        *METHODS["wttm"].Settings.model_fields,
    ):
        assert text in printed, text
    result = CliRunner().invoke(run.app, ["methods", "wtm"])
    assert result.exit_code == BAD_CONFIGURATION and "did you mean 'wttm'" in result.output
