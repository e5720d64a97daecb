"""Test the best student as an MLflow model: the trainer's logits, one version, no pickle."""

import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.export.export import export_program
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store, read_json
from orchestrator.tracking import model_registry
from orchestrator.tracking._client import connect
from orchestrator.tracking._values import tracking_uri
from tests.checkpointed import start_sweep, student, track, with_student

NAME = "tests-mine"


@pytest.fixture(autouse=True)
def models(no_model: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_registry, "KINDS", ("sweep",))


def client_of(store: Store, sweep: Sweep) -> Any:
    return connect(tracking_uri(store, sweep.configuration))


def run_of(store: Store, sweep: Sweep, key: str) -> Any:
    return client_of(store, sweep).get_run(read_json(sweep.folder / "mlflow.json")[key])


def loaded(store: Store, sweep: Sweep) -> Any:
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking_uri(store, sweep.configuration))
    try:
        return mlflow.pyfunc.load_model(f"models:/{NAME}@best")
    finally:
        mlflow.set_tracking_uri(before)


def logits(number: int, images: Any, sweep: Sweep) -> Any:
    data = read_json(sweep.folder / "data.json")
    mean, std = (torch.tensor(data[name]).view(-1, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        return student(number)((torch.from_numpy(images) - mean) / std).logits.numpy()


def test_the_best_student_is_a_model_that_gives_its_logits_and_a_better_one_takes_the_alias(
    tracked_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = start_sweep(tracked_store)
    first, second = with_student(sweep, 0, 0.5), with_student(sweep, 1, 0.6)
    track(tracked_store, sweep, first, second)
    client = client_of(tracked_store, sweep)
    version = client.get_model_version_by_alias(NAME, "best")
    assert (str(version.version), version.tags["trial"], version.tags["method"]) == ("1", "1", "kd")
    (example,) = [
        read_json(file)
        for file in tracked_store.artifacts.glob("models/*/artifacts/serving_input_example.json")
    ]
    files = [
        path for path in tracked_store.artifacts.glob("models/*/artifacts/**/*") if path.is_file()
    ]
    assert not [path for path in files if path.suffix in (".pkl", ".pth", ".pt")] and any(
        path.suffix == ".pt2" for path in files
    )

    def no(*arguments: Any, **named: Any) -> None:
        raise AssertionError("something was unpickled")

    with monkeypatch.context() as patched:
        for owner, attribute in (
            (torch, "load"),
            (pickle, "load"),
            (pickle, "loads"),
            (pickle, "Unpickler"),
        ):
            patched.setattr(owner, attribute, no)
        model = loaded(tracked_store, sweep)
    images = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    assert np.allclose(model.predict(images), logits(1, images, sweep), atol=1e-5)
    assert [
        spec.shape
        for spec in (
            *model.metadata.signature.inputs.inputs,
            *model.metadata.signature.outputs.inputs,
        )
    ] == [(-1, 1, 8, 8), (-1, 10)]
    shown = np.load(next((tracked_store.root / "data").glob("*/validation_inputs.npy")))[:2]
    assert np.allclose(np.array(example["inputs"]), shown.transpose(0, 3, 1, 2) / 255)

    logged = client.get_logged_model(model.metadata.model_id)
    assert (
        logged.tags["mlflow.note.content"].startswith("# mine-1-a")
        and f'"name": "{NAME}"' in logged.tags["mlflow.modelVersions"]
    )
    shown_metrics = {(metric.key, metric.dataset_name): metric.value for metric in logged.metrics}
    assert shown_metrics["student/test/best/accuracy", "digits"] == 0.3
    parent = run_of(tracked_store, sweep, "parent")
    assert parent.data.tags["model.name"] == NAME and parent.data.tags["model.version"] == "1"
    assert [output.model_id for output in parent.outputs.model_outputs] == [model.metadata.model_id]
    assert f"[{NAME}](#/models/{NAME})" in parent.data.tags["mlflow.note.content"]
    page = f"#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}"
    linked = f"({page}/artifacts/configuration.json)"
    assert linked in parent.data.tags["mlflow.note.content"]
    track(tracked_store, sweep)  # a resume without work
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 1

    track(tracked_store, sweep, with_student(sweep, 2, 0.9))
    versions = client.search_model_versions(f"name = '{NAME}'")
    assert {str(entry.version): entry.tags["trial"] for entry in versions} == {"1": "1", "2": "2"}
    assert np.allclose(
        loaded(tracked_store, sweep).predict(images), logits(2, images, sweep), atol=1e-5
    )
    best = {key: run_of(tracked_store, sweep, key).data.tags.get("best") for key in ("0", "1", "2")}
    assert best == {"0": None, "1": None, "2": "true"}


def test_who_dies_before_the_registration_leaves_a_model_that_is_registered_later(
    tracked_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = start_sweep(tracked_store)
    track(tracked_store, sweep, with_student(sweep, 0, 0.5), ended="interrupted")
    client, run = client_of(tracked_store, sweep), run_of(tracked_store, sweep, "parent").info
    assert not client.search_registered_models()  # better trials may follow
    tags = {"trial": "0", "student": "cnn", "method": "kd"}
    shipped = partial(export_program, tracked_store, "mine")
    arguments = (client, tracked_store, sweep, shipped, run.run_id, run.experiment_id, 0, "a", tags)

    def die(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(model_registry, "_version", die)
        model_registry.register(*arguments)
    answers = [model_registry.register(*arguments) for _ in range(2)]
    assert answers == [{"model.name": NAME, "model.version": "1"}] * 2
    assert (
        len(client.search_logged_models([run.experiment_id]))
        == len(client.search_model_versions(f"name = '{NAME}'"))
        == 1
    )


def test_best_trial_without_weights_is_reported_and_not_registered(tracked_store: Store) -> None:
    sweep = start_sweep(tracked_store)
    trial = with_student(sweep, 0, 0.5)
    for file in (sweep.trial_folder(0) / "checkpoint").glob("*.safetensors"):
        file.unlink()
    track(tracked_store, sweep, trial)
    tags = run_of(tracked_store, sweep, "parent").data.tags
    assert (
        "the weights of trial 0 of 'mine' were removed" in tags["model.missing"]
        and "model.name" not in tags
    )
    assert not client_of(tracked_store, sweep).search_registered_models()
    assert not Path(sweep.folder / "outbox-refused.jsonl").exists()


def test_runs_have_tags_of_their_kind(tracked_store: Store) -> None:
    sweep = start_sweep(tracked_store)
    (sweep.folder / "trials").mkdir()
    track(tracked_store, sweep, with_student(sweep, 0, 0.5), ended="failed")
    for key in ("parent", "0"):
        run = run_of(tracked_store, sweep, key)
        assert {
            "method": "kd",
            "student": "cnn",
            "teacher": "mlp",
            "data": "digits",
        }.items() <= run.data.tags.items()
        (used,) = run.inputs.dataset_inputs
        assert (used.dataset.name, used.dataset.digest) == (
            "digits",
            read_json(sweep.folder / "data.json")["fingerprint"],
        )
    runs = client_of(tracked_store, sweep).search_runs(
        [run.info.experiment_id], "dataset.name = 'digits' and tags.kind = 'trial'"
    )
    assert [entry.info.run_name for entry in runs] == ["mine/000 kd"]
