"""Test that every command but `ui` refuses a store of an older version."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import run
from orchestrator.core.errors import BAD_CONFIGURATION, UNFIT_ENVIRONMENT
from orchestrator.store.store import Store
from orchestrator.tracking import ui
from tests.report.report_made import made

REFUSED = {
    "sweep": ([], ["--dry-run"], ["--resume", "mine"]),
    "compare": (["--methods", "kd,akd"], ["--resume", "mine"]),
    "train": ([], ["--local"], ["--dry-run"]),
    "teacher": ([], ["--precompute", "--local"], ["--dry-run"]),
    "status": ([], ["mine"], ["mine", "--json"]),
    "watch": (["mine"], ["mine", "--once"]),
    "importance": (["mine"],),
    "report": (["mine"],),
    "stop": (["mine"],),
    "export": (["mine"], ["mine", "--format", "onnx"]),
}
# the first reports it, the second shows it, the third needs a checkpoint (test_import_weights.py)
OTHERS = {"doctor", "ui", "import-weights"}


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("older") / "store"
    made(root, 3)
    (root / "store.json").unlink()
    return root


def contents(root: Path) -> list[Path]:
    return sorted(root.rglob("*"))


def test_every_command_with_a_store_is_here() -> None:
    commands = typer.main.get_command(run.app).commands  # type: ignore[attr-defined]
    assert REFUSED.keys() | OTHERS == {
        name
        for name, command in commands.items()
        if any(option.name == "store" for option in command.params)
    }


@pytest.mark.parametrize(
    "command", [[name, *words] for name, ways in REFUSED.items() for words in ways], ids=" ".join
)
def test_a_command_refuses_an_older_store_and_leaves_it(command: list[str], older: Path) -> None:
    before = contents(older)
    result = CliRunner().invoke(run.app, [*command, "--store", str(older)])
    assert result.exit_code == BAD_CONFIGURATION
    assert result.output.startswith(
        f"error: --store {older} has format 0 of an older version of this program: resume its runs"
    )
    assert result.output.count("\n") == 1 and contents(older) == before


def test_doctor_reports_an_older_store(older: Path) -> None:
    result = CliRunner().invoke(run.app, ["doctor", "--quick", "--store", str(older)])
    assert result.exit_code == UNFIT_ENVIRONMENT
    (line,) = [line for line in result.output.splitlines() if line.startswith("store ")]
    assert line.split()[1] == "bad" and "older version of this program" in line


def test_ui_shows_an_older_store(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Path] = []

    def serve(store: Store, *_: object) -> int:
        served.append(store.root)
        return 0

    monkeypatch.setattr(ui, "serve", serve)
    assert CliRunner().invoke(run.app, ["ui", "--store", str(older)]).exit_code == 0
    assert served == [older]
