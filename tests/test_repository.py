"""Test the repository: licence, version, typed packages, completion, site navigation."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

import run
from orchestrator.core import provenance
from scripts import site

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_version_matches_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version("distillation-orchestrator")
    monkeypatch.setattr(provenance, "_git", lambda *_: None)
    result = CliRunner().invoke(run.app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"{version}\n")
    monkeypatch.setattr(provenance, "_git", lambda *_: "0123456789ab")
    assert CliRunner().invoke(run.app, ["--version"]).output == f"{version} (0123456789ab)\n"


def test_citation_and_changelog_name_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version = PROJECT["project"]["version"]
    assert (
        citation["version"] == version
        and citation["license"] == PROJECT["project"]["license"] == "Apache-2.0"
    )
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert f"\n## [{version}] - {citation['date-released']}\n" in changelog
    assert changelog.index("\n## [Unreleased]\n") < changelog.index(f"\n## [{version}]")


def test_packages_are_typed() -> None:
    for package, files in PROJECT["tool"]["setuptools"]["package-data"].items():
        assert "py.typed" in files and (ROOT / package / "py.typed").is_file()


def test_completion_lists_commands() -> None:
    variables = {"_ROOT_COMPLETE": "complete_bash", "COMP_WORDS": "root sw", "COMP_CWORD": "1"}
    result = CliRunner().invoke(run.app, [], env=os.environ | variables, prog_name="root")
    assert result.output.split() == ["sweep"]


def test_workflows_have_read_only_permissions() -> None:
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert [file.stem for file in files] == ["check", "docs", "test"]
    for file in files:
        assert yaml.safe_load(file.read_text())["permissions"] == {"contents": "read"}


def test_every_page_is_in_the_navigation() -> None:
    def pages(entries: list[object]) -> list[str]:
        paths = []
        for entry in entries:
            paths += (
                [entry]
                if isinstance(entry, str)
                else [page for part in entry.values() for page in part]  # type: ignore[attr-defined]
            )
        return paths

    listed = pages(site.navigation())
    assert sorted(listed) == sorted(
        path.relative_to(site.DOCS).as_posix() for path in site.DOCS.rglob("*.md")
    )


def test_links_out_of_docs_become_text(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "how-to" / "page.md"
    page.parent.mkdir(parents=True)
    (tmp_path / "README.md").touch()
    text = "[a](../../README.md#top) [b](../tutorial.md) [c](../../gone.py) [d](../../../out.md)"
    assert site.unlink_outside(text, page, tmp_path) == (
        "a [b](../tutorial.md) c d",
        ["../../gone.py", "../../../out.md"],
    )


def test_a_missing_target_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    assert site.on_page_markdown("[gone](../gone.py)", page) == "gone"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def build_site(folder: Path, text: str) -> int:
    """Build a one-page site with the project's settings but no hooks; return the exit code."""
    settings = (ROOT / "mkdocs.yml").read_text()
    hooks = settings[settings.index("hooks:") : settings.index("theme:")]
    (folder / "mkdocs.yml").write_text(settings.replace(hooks, ""))
    (folder / "docs").mkdir()
    (folder / "docs" / "index.md").write_text(text)
    (options,) = {
        line.split("/mkdocs ")[1]
        for line in (ROOT / "Makefile").read_text().splitlines()
        if "/mkdocs " in line
    }
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", *options.split()]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True).returncode


@pytest.mark.parametrize(
    ("text", "code"),
    [("# A\n\n[a](#a)\n", 0), ("# A\n\n[a](gone.md)\n", 1), ("# A\n\n[a](#gone)\n", 1)],
)
def test_a_broken_link_fails_the_build(tmp_path: Path, text: str, code: int) -> None:
    assert build_site(tmp_path, text) == code


def test_fences_with_a_file_get_a_title() -> None:
    assert (
        site.title_fences("```python methods/a.py\nx\n```\n```sh\n")
        == '```python title="methods/a.py"\nx\n```\n```sh\n'
    )
