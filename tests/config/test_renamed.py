"""Test that a former name of a setting or an option is refused with its new name."""

from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

import run
from orchestrator.cli._submission import create_submission
from orchestrator.config.data_schema import Data
from orchestrator.config.loader import build, load
from orchestrator.config.renamed import RENAMED, refuse_renamed
from orchestrator.config.schema import Configuration, Resources, Search, Section
from tests.refusal import refused

OLD_KEYS = [key for key in RENAMED if not key.startswith("--")]
OLD_OPTIONS = [key for key in RENAMED if key.startswith("--")]
VALUE = ["old", 1]
SECTIONS: dict[str, type[Section]] = {"data": Data, "resources": Resources, "search": Search}


def nested(key: str) -> dict[str, Any]:
    section, _, name = key.partition(".")
    return {section: {name: VALUE}}


@pytest.mark.parametrize("key", OLD_KEYS)
def test_an_old_key_of_a_file_is_refused(key: str, tmp_path: Path) -> None:
    file = tmp_path / "given.yaml"
    file.write_text(yaml.safe_dump(nested(key)))
    with refused(key, VALUE, RENAMED[key]) as caught:
        load(file, [])
    assert str(caught.value) == f"{key} was renamed: write {RENAMED[key]}"


@pytest.mark.parametrize("key", OLD_KEYS)
def test_an_old_key_of_set_is_refused(key: str) -> None:
    with refused(key, VALUE, RENAMED[key]):
        load(None, [f"{key}={VALUE}"])


@pytest.mark.parametrize("key", OLD_KEYS)
def test_an_old_key_with_keys_below_it_is_refused(key: str) -> None:
    with refused(key, {"student": {"width": VALUE}}, RENAMED[key]):
        load(None, [f"{key}.student.width={VALUE}"])


@pytest.mark.parametrize("key", OLD_KEYS)
def test_an_old_key_in_nested_values_is_refused(key: str) -> None:
    with refused(key, VALUE, RENAMED[key]):
        build(nested(key))
    with refused(key, VALUE, RENAMED[key]):
        Configuration.model_validate(nested(key))


@pytest.mark.parametrize("key", OLD_KEYS)
def test_an_old_key_in_python_is_refused(key: str) -> None:
    section, _, name = key.partition(".")
    with refused(key, VALUE, RENAMED[key]):
        SECTIONS[section](**{name: VALUE})


@pytest.mark.parametrize("key", OLD_KEYS)
def test_a_new_key_exists_and_the_old_one_does_not(key: str) -> None:
    section, _, name = RENAMED[key].partition(".")
    assert name in SECTIONS[section].model_fields
    assert key.partition(".")[2] not in SECTIONS[section].model_fields


@pytest.mark.parametrize("name", ["method.pair", "student.fixed", "search.trials", "--precompute"])
def test_other_names_pass(name: str) -> None:
    refuse_renamed(name, VALUE)


@pytest.mark.parametrize("option", OLD_OPTIONS)
def test_an_old_option_is_refused_and_not_listed(option: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(run.app, ["teacher", option, "--store", str(tmp_path / "store")])
    assert (result.exit_code, result.output) == (
        2,
        f"error: {option} was renamed: write {RENAMED[option]}\n",
    )
    assert not (tmp_path / "store").exists()
    listed = CliRunner().invoke(run.app, ["teacher", "--help"]).output
    assert RENAMED[option] in listed and option not in listed


@pytest.mark.parametrize("option", OLD_OPTIONS)
def test_an_old_option_of_a_submitted_command_is_refused(option: str) -> None:
    group = typer.main.get_command(run.app)
    with refused(option, True, RENAMED[option]):
        create_submission(group, ["teacher", "--store", "/shared", option], None, Path())
