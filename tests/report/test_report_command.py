"""Test the command `report`: the target, replaced files, the MLflow artifact, refusals."""

import stat
from pathlib import Path

import mlflow
import pytest
from typer.testing import CliRunner

import run
from orchestrator.core.provenance import describe
from orchestrator.reporting.html.page import GENERATOR
from orchestrator.store.environment import ENVIRONMENT, ENVIRONMENT_FILE
from orchestrator.store.store import Store, read_json
from tests.report.report_made import made

SETTINGS = (
    "training.epochs=2",
    "teacher.training.epochs=1",
    "teacher.network.width=16",
    "student.width=8",
    "method.name=kd",
)


def call(*arguments: str) -> tuple[int, str]:
    """Return exit code and everything printed, in one line."""
    result = CliRunner().invoke(run.app, list(arguments))
    return result.exit_code, " ".join(result.output.split())


def test_the_page_of_a_real_training_is_in_the_store_and_in_mlflow(tmp_path: Path) -> None:
    root = tmp_path / "store"
    pairs = [part for pair in SETTINGS for part in ("--set", pair)]
    assert call("train", "--local", "--store", str(root), "--name", "mine", *pairs)[0] == 0
    code, output = call("report", "mine", "--store", str(root))
    file = root / "reports" / "mine.html"
    assert code == 0 and f"report: {file}" in output and "artifact report/mine.html" in output, (
        output
    )
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    accuracy = read_json(Store(root).sweep("mine") / "trials" / "00000" / "trial.json")["metrics"][
        "test/best/accuracy"
    ]
    assert (
        f"the training recorded {accuracy:.4f}" in text
        and 'aria-labelledby="chart-confusion-a"' in text
    )
    assert ENVIRONMENT.read(Store(root).sweep("mine") / ENVIRONMENT_FILE) == describe()
    assert describe()["version.torch"] in text and "The run did not record" not in text
    client = mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    run_id = read_json(Store(root).sweep("mine") / "mlflow.json")["parent"]
    assert [artifact.path for artifact in client.list_artifacts(run_id, "report")] == [
        "report/mine.html"
    ]
    assert next(root.glob("artifacts/*/artifacts/report/mine.html")).read_text() == text


def test_report_overwrites_the_page_at_the_given_path(tmp_path: Path) -> None:
    made(tmp_path / "store", 3)
    target = tmp_path / "out.html"
    for _ in range(2):  # an earlier report is replaced
        code, output = call(
            "report", "mine", "--store", str(tmp_path / "store"), "--to", str(target)
        )
        assert (
            code == 0
            and f"report: {target}" in output
            and "not logged: it has no run in MLflow" in output
        )
    assert GENERATOR in target.read_text() and not (tmp_path / "store" / "reports").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.html", "store"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mima"], "there is no sweep 'mima' in {root}/store: did you mean 'mine'?"),
        (["../mine"], "the name '../mine' is not allowed"),
        (
            ["mine", "--to", "{root}/nowhere/out.html"],
            "--to {root}/nowhere/out.html: the folder {root}/nowhere does not exist",
        ),
        (["mine", "--to", "{root}"], "--to {root} is a folder: give the name of a file"),
        (
            ["mine", "--to", "{root}/notes.txt"],
            "--to {root}/notes.txt exists and is not an earlier report",
        ),
        (["mine", "--store", "{root}/none"], "--store {root}/none does not exist"),
    ],
)
def test_bad_arguments_are_one_sentence(tmp_path: Path, arguments: list[str], message: str) -> None:
    made(tmp_path / "store", 3)
    (tmp_path / "notes.txt").write_text("mine")
    given = [argument.format(root=tmp_path) for argument in arguments]
    code, output = call("report", "--store", str(tmp_path / "store"), *given)
    assert code == 2 and output.startswith("error: ") and message.format(root=tmp_path) in output, (
        output
    )
    assert (tmp_path / "notes.txt").read_text() == "mine" and not (
        tmp_path / "store" / "reports"
    ).exists()


def test_a_damaged_sweep_is_one_sentence(tmp_path: Path) -> None:
    sweep = made(tmp_path / "store", 3)
    for name in ("sweep.json", "sweep.copy.json"):
        (sweep.folder / name).write_text("{")
    code, output = call("report", "mine", "--store", str(tmp_path / "store"))
    assert code == 2 and "): restore one of them from a backup" in output


def test_a_damaged_study_leaves_the_rest(tmp_path: Path) -> None:
    sweep = made(tmp_path / "store", 12)
    (sweep.folder / "study.log").write_text("no journal\n")
    code, _ = call("report", "mine", "--store", str(tmp_path / "store"))
    text = (tmp_path / "store" / "reports" / "mine.html").read_text()
    assert code == 0 and "study.log is damaged: up to line" in text and "chart-parallel-0" in text
