"""Run the commands of the how-to page about resuming with Ray, as printed."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import run
from tests.pages import DOCS, blocks, commands


@pytest.mark.ray
@pytest.mark.usefixtures("own_ray")
@pytest.mark.slow
def test_resume_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "configs").symlink_to(DOCS.parent / "configs")
    output = ""
    for line in [line for block in blocks("how-to/resume.md") for line in commands(block)]:
        result = CliRunner().invoke(run.app, line[2:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
        output = result.output
    assert "night: finished after" in output and "best student: trial" in output
    assert len(list((tmp_path / "runs" / "sweeps" / "night" / "trials").iterdir())) == 4
