"""Run every how-to page: its code, commands without Ray, and the plan of commands with Ray."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from runpy import run_path

import pytest
import typer.main
import yaml
from typer.testing import CliRunner

import run
from tests.pages import DOCS, blocks, commands, printed_commands, variations
from tests.user_code import unload_all

ROOT = DOCS.parent
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.glob("how-to/*.md"))
PAGES_OF_CODE = {
    "how-to/capability.md",
    "how-to/method.md",
    "how-to/network.md",
}  # they change code: tests/test_pages_of_code.py
PRINTED = {
    "how-to/data.md": "npz: train 255, validation 45, test 90; 3 classes, 1x12x12",
    "how-to/teachers.md": "ensemble of trial 0: validation accuracy 0.",
    "how-to/students.md": "student b (mlp): test accuracy",
    "how-to/sample-weights.md": "trial 0 complete after 4 epochs",
    "how-to/retrieval.md": "trial 0 complete after 2 epochs",
    "how-to/compare.md": "comparison: 20 trials for each of 4 methods, then 4 x 10 trainings, "
    "seeds 1 to 10",
    "how-to/search.md": "kd.temperature was 1 to 10, logarithmic and is now 1 to 6, logarithmic",
    "how-to/cluster.md": "1 x 2 workers of 1 CPU",
    "how-to/local.md": "here: finished after",
    "how-to/resume.md": "3 of cross_entropy, kd, akd",
    "how-to/install.md": "digits_dual",
    "how-to/python.md": "complete True",
    "how-to/export.md": "student a (cnn) of trial 0, best weights, after epoch 2",
    "how-to/code.md": "all checks passed",
}


def is_run_with_ray(words: list[str]) -> bool:
    """Return whether a `run.py` command would start Ray."""
    return words[0] in ("sweep", "compare", "train", "teacher") and not {
        "--local",
        "--dry-run",
    } & set(words)


def invoke(words: list[str]) -> str:
    """Run a `run.py` command, or plan it if it would start Ray, and return its output."""
    words = [*words, "--dry-run"] if is_run_with_ray(words) else words
    result = CliRunner().invoke(run.app, words)
    assert result.exit_code == 0, f"{words}\n{result.output}"
    return result.output


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder with configurations; those of digits are made smaller."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    for file in (tmp_path / "configs").glob("digits*.yaml"):
        experiment = yaml.safe_load(file.read_text())
        experiment["data"]["limit"] = {"train": 640}
        experiment["teacher"]["training"]["epochs"] = 2
        file.write_text(yaml.safe_dump(experiment))
    yield tmp_path
    unload_all()


@pytest.mark.parametrize("page", sorted(set(PAGES) - PAGES_OF_CODE))
def test_page_runs(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, plannable = "", [["train", "--dry-run"]]
    files_first = sorted(blocks(page), key=lambda block: not block.file)
    for block in files_first:
        if block.file:
            (folder / block.file).write_text(block.text)
            continue
        for python, script, *words in commands(block):
            assert python == "python"
            if script != "run.py":
                run_path(script, run_name="__main__")
                output += capsys.readouterr().out
            elif "--resume" not in words:  # tests/on_ray/test_how_to_on_ray.py
                output += invoke(words)
                plannable += (
                    [words]
                    if "--local" not in words and words[0] in ("sweep", "compare", "train")
                    else []
                )
    assert PRINTED[page] in output
    for label, options in variations(page) if page != "how-to/export.md" else ():
        output += f"{label}\n{invoke([*plannable[-1], *options])}"


def test_variations_of_the_network_are_planned(folder: Path) -> None:
    for label, options in variations("how-to/network.md"):
        invoke(["sweep" if "`sweep`" in label else "train", "--dry-run", *options])


@pytest.mark.parametrize("page", ["../README.md", "tutorial.md", *PAGES])
def test_commands_of_a_page_have_these_options(page: str) -> None:
    known = typer.main.get_command(run.app).commands  # type: ignore[attr-defined]
    for name, *words in printed_commands((DOCS / page).read_text()):
        if name != "...":
            known[name].make_context(name, words)
