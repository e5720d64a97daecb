"""Run a whole comparison on Ray with one set of worker groups, and find its table."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import run
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep._backends import open_dispatcher
from orchestrator.sweep.comparison import running
from orchestrator.sweep.comparison.formats import list_files
from orchestrator.sweep.comparison.record import Comparison
from orchestrator.sweep.comparison.result import result

# tests/comparison runs whole comparisons in this process; this one adds Ray and its worker groups
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("own_ray")]
SMALL = (
    "teacher.network.width=16",
    "teacher.training.epochs=1",
    "student.width=6",
    "training.epochs=1",
    "search.grace_epochs=1",
)


def test_a_comparison_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    opened: list[Any] = []

    def counted(*given: Any) -> Any:
        opened.append(given)
        return open_dispatcher(*given)

    monkeypatch.setattr(running, "open_dispatcher", counted)
    pairs = [
        part
        for pair in (*SMALL, "data.limit.train=200", "project=compared")
        for part in ("--set", pair)
    ]
    arguments = [
        "--methods",
        "cross_entropy,kd",
        "--trials",
        "2",
        "--seeds",
        "2",
        "--name",
        "mine",
        "--store",
        str(tmp_path),
    ]
    done = CliRunner().invoke(run.app, ["compare", *arguments, "--json", *pairs])
    assert done.exit_code == 0, done.output
    assert len(opened) == 1
    printed = json.loads(done.stdout)
    assert [row["method"] for row in printed["rows"]] == ["cross_entropy", "kd"] and printed[
        "seeds"
    ] == [1, 2]
    last = Sweep.open(Store(tmp_path), "mine-seeds")
    for row in printed["rows"]:
        reached = [
            t.metrics["test/last/accuracy"]
            for t in last.trials.values()
            if t.params["method.name"] == row["method"]
        ]
        assert len(reached) == 2 and row["means"]["accuracy"]["value"] == pytest.approx(
            sum(reached) / 2
        )
    assert json.loads((tmp_path / "comparisons" / "mine" / "result.json").read_text()) == printed
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (parent,) = client.search_runs(
        [client.get_experiment_by_name("compared").experiment_id], "run_name = 'mine-seeds'"
    )
    assert (
        parent.data.metrics["comparison/kd/accuracy"]
        == printed["rows"][1]["means"]["accuracy"]["value"]
    )
    logged = {file.path for file in client.list_artifacts(parent.info.run_id, "comparison")}
    store = Store(tmp_path)
    files = list_files(result(store, Comparison.open(store, "mine")))
    assert logged == {f"comparison/{name}" for name in files}
