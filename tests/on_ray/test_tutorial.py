"""Run every command of docs/tutorial.md in order, as printed, in an empty folder."""

import subprocess
from pathlib import Path
from runpy import run_path

import pytest
import yaml
from typer.testing import CliRunner

import run
from orchestrator.store.store import Store
from tests.pages import Block, blocks, commands

ROOT = Path(__file__).parents[2]
PAGE = "tutorial.md"
EXPERIMENT = Path("configs", "digits.yaml")  # that of a command without `--config`


def installs(words: list[str]) -> bool:
    """Return whether the line belongs to the installation, which already exists here."""
    return words[0] in ("make", ".")


def called(words: list[str]) -> str:
    """Run a command of the page, which must succeed, and return its output."""
    assert words[:2] == ["python", "run.py"], words
    result = CliRunner().invoke(run.app, words[2:])
    assert result.exit_code == 0, f"{words}\n{result.output}"
    return result.output


def ran(block: Block) -> None:
    """Run a Python block as a script."""
    Path("block.py").write_text(block.text)
    run_path("block.py", run_name="__main__")


def test_the_installation_of_the_page_is_a_target() -> None:
    lines = [
        words
        for block in blocks(PAGE)
        if block.language == "sh"
        for words in commands(block)
        if installs(words)
    ]
    assert lines == [["make", "install"], [".", ".venv/bin/activate"]]
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", "install"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and "pip install" in done.stdout


def write_small_experiment(folder: Path) -> None:
    """Write the experiment of the page with fewer images and epochs of the teacher."""
    experiment = yaml.safe_load((ROOT / EXPERIMENT).read_text())
    experiment["data"]["limit"] = {"train": 400}
    experiment["teacher"]["training"]["epochs"] = 3
    (folder / EXPERIMENT).parent.mkdir()
    (folder / EXPERIMENT).write_text(yaml.safe_dump(experiment))


@pytest.mark.ray
@pytest.mark.usefixtures("own_ray")
@pytest.mark.parametrize("small", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_command_of_the_page_runs(
    small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands are those of the page; the small variant replaces the experiment's file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    if small:
        write_small_experiment(tmp_path)
    else:
        (tmp_path / "configs").symlink_to(ROOT / "configs")
    printed: dict[str, str] = {}
    for block in blocks(PAGE):
        if block.language == "python":
            ran(block)
        else:
            printed |= {words[2]: called(words) for words in commands(block) if not installs(words)}
    assert (
        "tutorial: finished after" in printed["watch"]
        and "training.learning_rate" in printed["importance"]
    )
    assert Store.named("runs").sweeps() == ["tutorial"]
    assert (tmp_path / "my_student" / "model.safetensors").is_file() and "my_program" in printed[
        "export"
    ]
    assert (tmp_path / "runs" / "reports" / "tutorial.html").is_file()
    assert printed["predict"].count("three.npy") == 3 and printed["predict"].count("%") == 6
