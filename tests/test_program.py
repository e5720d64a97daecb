"""Test the name of the program in messages: the command that was started, or the installed one."""

import sys
from pathlib import Path

import pytest

from orchestrator.config.loader import load
from orchestrator.config.method_settings import check_settings
from orchestrator.core import program as module
from orchestrator.core.program import install_command, program_name
from tests.refusal import refused

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("argv", "installed", "expected"),
    [
        (["run.py", "sweep"], False, "python run.py"),
        (["/project/run.py"], False, "python run.py"),
        (["/project/.venv/bin/distil", "sweep"], False, "distil"),
        (["distil.exe"], False, "distil"),
        (["/ray/default_worker.py"], False, "python run.py"),
        (["/ray/default_worker.py"], True, "distil"),
        ([""], True, "distil"),
        ([], False, "python run.py"),
    ],
)
def test_the_program_is_named_as_it_was_started_or_as_it_is_installed(
    argv: list[str], installed: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(module, "IS_INSTALLED", installed)
    assert program_name() == expected


def test_a_message_names_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    for started in ("run.py", "distil"):
        monkeypatch.setattr(sys, "argv", [started])
        with refused("method.name", "kdd") as refusal:
            check_settings(load(None, []), "kdd", "method.name")
        expected = "distil" if started == "distil" else "python run.py"
        assert f"`{expected} methods`" in str(refusal.value)


def test_an_extra_is_installed_from_the_checkout_or_by_the_name_of_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert install_command("onnx") == "pip install '.[onnx]'"
    monkeypatch.setattr(module, "IS_INSTALLED", True)
    assert install_command("onnx") == "pip install 'distillation-orchestrator[onnx]'"


def test_messages_take_the_name_from_one_function() -> None:
    named = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "orchestrator").rglob("*.py")
        if "run.py" in file.read_text()
    }
    assert named == {
        "orchestrator/cli/_submission.py",  # the command of a job, whose folder has run.py
        "orchestrator/cli/configs.py",  # replaces it
        "orchestrator/cluster/package.py",
        "orchestrator/core/program.py",
        "orchestrator/core/project.py",
    }
