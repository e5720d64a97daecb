"""Test environment variables that redirect MLflow: the configuration wins, with a note."""

from pathlib import Path

import pytest

from orchestrator.config.loader import load
from orchestrator.config.uris import database_uri
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.tracking._client import connect
from orchestrator.tracking.overrides import (
    OF_A_SERVER,
    SWITCHED_OFF,
    UNUSED,
    server_environment,
    unused_variables,
)
from orchestrator.tracking.tracker import Tracker


def test_configuration_decides_where_runs_and_models_are(
    tracked_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = database_uri(tmp_path / "elsewhere.db")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_WORKSPACE_STORE_URI"):
        monkeypatch.setenv(name, elsewhere)
    for name in SWITCHED_OFF:
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    monkeypatch.setenv("MLFLOW_RUN_ID", "1" * 32)
    tracker = Tracker(
        tracked_store,
        Sweep.create(tracked_store.sweep("mine"), load(None, ["project=tests"]), "sweep"),
    )
    notes: list[str] = []
    tracker.listen(notes.append)
    tracker.trial_started(Trial(0, {}, state="running"))
    assert tracker.close("interrupted", timeout=60) == 0
    client = connect(database_uri(tracked_store.database))
    client.create_registered_model("student")
    monkeypatch.undo()
    again = connect(database_uri(tracked_store.database))
    assert {each.name for each in again.search_experiments()} == {"Default", "tests"}
    assert [each.name for each in again.search_registered_models()] == ["student"]
    assert not (tmp_path / "elsewhere.db").exists()
    assert [text.partition("=")[0] for text in notes] == [
        "MLFLOW_TRACKING_URI",
        "MLFLOW_REGISTRY_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_RUN_ID",
        "MLFLOW_WORKSPACE_STORE_URI",
    ]
    assert all("is ignored" in text for text in notes)


def test_agreeing_variables_are_not_reported_and_secrets_are_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri = "http://127.0.0.1:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert unused_variables(uri) == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:sesame@host")
    (text,) = unused_variables(uri)
    assert "sesame" not in text and f"runs are written to {uri}" in text


def test_workspace_of_a_server_is_used_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_WORKSPACE", "mine")
    (text,) = unused_variables("http://127.0.0.1:5000")
    assert text.startswith("runs are written to the workspace 'mine'")
    (text,) = unused_variables("sqlite:////m.db")
    assert text.startswith("MLFLOW_WORKSPACE=mine in the environment is ignored")


def test_the_server_of_ui_is_sent_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {*UNUSED, *SWITCHED_OFF, *OF_A_SERVER}
    for name in names:
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "DEBUG")
    environment, left_out = server_environment()
    assert (
        set(left_out) == names
        and not names & set(environment)
        and environment["MLFLOW_LOGGING_LEVEL"] == "DEBUG"
    )
