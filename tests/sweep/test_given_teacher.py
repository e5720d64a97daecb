"""Test the warning about a useless teacher: console, record, report, MLflow, export."""

from pathlib import Path

import torch

from orchestrator.export.export import export
from orchestrator.models.build import build
from orchestrator.models.weights import save_weights
from orchestrator.reporting.html.report import report
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store, read_json
from orchestrator.teacher.quality import read_quality
from orchestrator.tracking._description import description
from orchestrator.tracking._values import tracking_uri
from tests.sweep_runs import RunSweep, Watch

GIVEN = (
    "teacher.network.name=mlp",
    "teacher.network.width=8",
    "training.epochs=3",
    "training.learning_rate=0.2",
    "method.alpha=0",
)


def test_accuracy_of_given_weights_is_reported_everywhere(run: RunSweep, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    torch.manual_seed(0)
    save_weights(build("mlp", 10, (1, 8, 8), {"width": 8}), tmp_path / "given.safetensors")
    watch = Watch()
    pairs = (
        *GIVEN,
        "data.limit.train=400",
        "data.limit.validation=200",
        f"teacher.network.weights={tmp_path / 'given.safetensors'}",
    )
    sweep: Sweep = run(*pairs, kind="train", local=True, watch=watch)
    quality, best, store = read_quality(sweep.folder), sweep.best(), Store.open(tmp_path / "store")
    assert quality is not None and quality.accuracy is not None and best is not None
    reached = f"validation accuracy {quality.accuracy:.4f}"
    assert watch.steps.count(f"teacher mlp (given weights given.safetensors): {reached}") == 1
    assert best.metrics["validation/accuracy"] > quality.accuracy + 0.1, (
        "a student of the labels alone is better"
    )
    notes = [note["text"] for note in sweep.notes]
    assert any(note.startswith("the teacher is no better than guessing") for note in notes) and set(
        notes
    ) <= set(watch.notes)
    assert any(
        note.startswith(f"the teacher is worse than its student: {reached}") for note in notes
    )
    page = report(store, sweep).html
    assert (
        f"with the teacher mlp (given weights given.safetensors): {reached}" in page
        and notes[0][:60] in page
    )
    assert f"teacher `mlp` ({reached})" in description(store, sweep, "finished")
    run_id = read_json(sweep.folder / "mlflow.json")["parent"]
    parent = MlflowClient(tracking_uri(store, sweep.configuration)).get_run(run_id).data
    assert parent.metrics["teacher/validation/accuracy"] == quality.accuracy
    assert (
        parent.tags["teacher.validation_accuracy"] == f"{quality.accuracy:.4f}"
        and reached in parent.tags["mlflow.note.content"]
    )
    (tmp_path / "given.safetensors").unlink()  # the run keeps its records
    assert (
        f"validation accuracy {quality.accuracy:.4f}"
        in (export(store, "sweep").folder / "README.md").read_text()
    )
