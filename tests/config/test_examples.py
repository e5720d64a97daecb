"""Test the example configurations: found by name, listed and printed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import run
from orchestrator.config.examples import (
    DEFAULT,
    FOLDER,
    find_configuration,
    list_examples,
    summarize_example,
)

OK, BAD_CONFIGURATION = 0, 2


def call(*arguments: str) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error."""
    result = CliRunner().invoke(run.app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("name", ["digits", "digits.yaml", "configs/digits", "configs/digits.yaml"])
def test_an_example_has_these_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_configuration(Path(name)) == DEFAULT == FOLDER / "digits.yaml"
    (tmp_path / "digits").mkdir()  # a folder is not a configuration
    assert find_configuration(Path(name)) == DEFAULT
    (tmp_path / "configs").mkdir()
    (tmp_path / name).with_suffix(".yaml").write_text("seed: 1")
    own = find_configuration(Path(name))
    assert own == (Path(name) if name.endswith(".yaml") else DEFAULT)


@pytest.mark.parametrize(
    "name",
    ["none", "none.yaml", "cluster/static", "../digits.yaml", "other/digits.yaml", "/digits"],
)
def test_other_names_are_kept(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_configuration(Path(name)) == Path(name)


def test_a_used_example_is_reported_and_an_unknown_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = ("train", "--dry-run", "--set", "data.name=digit")  # refused before any work
    code, _, error = call(*plan, "--config", "digits_dual")
    assert code == BAD_CONFIGURATION and "'digit'" in error
    assert f"note: --config digits_dual: no such file here, so the example {FOLDER}" in error
    code, _, error = call(*plan)
    assert code == BAD_CONFIGURATION and "note:" not in error
    code, _, error = call(*plan, "--config", "digits_dul")
    assert (code, error.count("\n")) == (BAD_CONFIGURATION, 1)
    assert "--config digits_dul" in error and "`python run.py configs`" in error


def test_every_example_is_listed_with_a_sentence() -> None:
    code, output, _ = call("configs")
    lines = [line.split(maxsplit=1) for line in output.splitlines()]
    assert code == OK and [line[0] for line in lines[:-1]] == list(list_examples())
    assert {line[0] for line in lines} >= {"digits", "digits_dual", "cluster/kuberay"}
    for name, file in list_examples().items():
        summary = summarize_example(file)
        assert 20 < len(summary) < 250 and [name, summary] in lines


def test_an_example_is_printed_as_it_is() -> None:
    assert call("configs", "digits") == (OK, DEFAULT.read_text(), "")
    assert call("configs", "cluster/static.yaml")[1].startswith("# ray up")
    code, _, error = call("configs", "digit")
    assert (code, error.count("\n")) == (BAD_CONFIGURATION, 1) and "did you mean 'digits'" in error
