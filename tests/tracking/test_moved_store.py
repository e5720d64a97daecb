"""Test moved and copied stores: MLflow's client finds artifacts of old and new runs in them."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.loader import load
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.tracking._client import connect
from orchestrator.tracking._relocation import missing_artifacts, relocate_artifacts
from orchestrator.tracking._values import tracking_uri
from orchestrator.tracking.tracker import Tracker

ODD = "my%20runs o?f #1 it's"
Write = Callable[[Store, int], list[str]]


@pytest.fixture
def write() -> Write:
    """Return a function that logs a trial of the sweep `mine`, and returns the notes."""

    from mlflow.tracking._tracking_service import utils

    def train(store: Store, number: int) -> list[str]:
        utils._artifact_repos_cache.clear()  # a store is never moved while a process uses it
        folder, notes = store.sweep("mine"), list[str]()
        sweep = (
            Sweep.open(store, "mine")
            if folder.exists()
            else Sweep.create(folder, load(None, ["project=tests"]), "sweep")
        )
        tracker = Tracker(store, sweep)
        tracker.listen(notes.append)
        tracker.trial_started(Trial(number, {}, state="running"))
        tracker.trial_ended(Trial(number, {}, state="waiting"))
        assert tracker.close("interrupted", timeout=60) == 0
        return notes

    return train


def configurations(store: Store) -> dict[str, str]:
    """Return each run's artifact uri by its name, after a download of its configuration."""
    client = connect(tracking_uri(store, load(None, [])))
    (experiment,) = [each for each in client.search_experiments() if each.name == "tests"]
    assert experiment.artifact_location == store.artifacts.as_uri()
    locations: dict[str, str] = {}
    for run in client.search_runs([experiment.experiment_id]):
        assert Path(client.download_artifacts(run.info.run_id, "configuration.json")).stat().st_size
        assert (store.artifacts / run.info.run_id / "artifacts" / "configuration.json").is_file()
        locations[run.info.run_name] = run.info.artifact_uri
    return locations


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_artifacts_follow_a_store_that_is_moved_or_copied(
    tracked_store: Store, tmp_path: Path, write: Write, how: Any
) -> None:
    assert write(tracked_store, 0) == []
    how(tracked_store.root, tmp_path / ODD)
    there, before = Store.open(tmp_path / ODD), sorted(tracked_store.root.rglob("*"))
    (moved,) = write(there, 1)
    assert (
        moved
        == f"the store was moved from {tracked_store.artifacts}: its artifacts in MLflow now point "
        f"to {there.artifacts}"
    )
    assert write(there, 2) == [], "once"
    locations = configurations(there)
    assert set(locations) == {"mine", "mine/000 kd", "mine/001 kd", "mine/002 kd"}
    assert all(uri.startswith(f"{there.artifacts.as_uri()}/") for uri in locations.values())
    assert sorted(tracked_store.root.rglob("*")) == before, (
        "a copied store is unchanged, and a moved one is not created again"
    )
    assert {path.name for path in tmp_path.iterdir()} <= {ODD, "store"}, "nothing lies outside"


def test_models_follow_too_and_what_lies_elsewhere_stays(
    tracked_store: Store, tmp_path: Path, write: Write
) -> None:
    write(tracked_store, 0)
    old, outside = tracked_store.artifacts.as_uri(), tmp_path / "disk" / "artifacts"
    outside.mkdir(parents=True)
    with closing(sqlite3.connect(tracked_store.database)) as known, known:
        known.execute("INSERT INTO registered_models (name, workspace) VALUES ('m', 'default')")
        columns = "name, version, source, storage_location, workspace"
        for version, source in enumerate(
            (f"{old}/models/m-1/artifacts", f"{old}-not/x", "s3://bucket/x"), start=1
        ):
            known.execute(
                f"INSERT INTO model_versions ({columns}) VALUES ('m', ?, ?, ?, 'default')",
                (version, source, source),
            )
        columns = "name, artifact_location, workspace"
        known.execute(
            f"INSERT INTO experiments ({columns}) VALUES ('o', ?, 'default')", (outside.as_uri(),)
        )
    shutil.move(tracked_store.root, tmp_path / "there")
    there = Store.open(tmp_path / "there")
    assert relocate_artifacts(there.database, there.artifacts) == [str(tracked_store.artifacts)]
    with closing(sqlite3.connect(there.database)) as known:
        rows = known.execute(
            "SELECT source, storage_location FROM model_versions ORDER BY version"
        ).fetchall()
        (uri,) = known.execute(
            "SELECT artifact_location FROM experiments WHERE name = 'o'"
        ).fetchone()
    new = f"{there.artifacts.as_uri()}/models/m-1/artifacts"
    assert (
        rows == [(new, new), (f"{old}-not/x",) * 2, ("s3://bucket/x",) * 2]
        and uri == outside.as_uri()
    )
    assert relocate_artifacts(there.database, there.artifacts) == []


def test_in_a_database_of_several_stores_only_what_is_here_is_taken_for_moved(
    tracked_store: Store, tmp_path: Path, write: Write
) -> None:
    write(tracked_store, 0)
    shared, other = tmp_path / "shared.db", tmp_path / "other" / "artifacts"
    shutil.copy(tracked_store.database, shared)
    shutil.move(tracked_store.root, tmp_path / "there")
    there = Store.open(tmp_path / "there")
    assert relocate_artifacts(shared, other, own=False) == [], (
        "these artifacts are of another store"
    )
    assert "does not exist: move it back" in missing_artifacts(
        tracked_store.artifacts.as_uri(), other
    )
    assert relocate_artifacts(shared, there.artifacts, own=False) == [str(tracked_store.artifacts)]
    for fine in (there.artifacts.as_uri(), "mlflow-artifacts:/7", "s3://bucket/x"):
        assert missing_artifacts(fine, there.artifacts) == ""
