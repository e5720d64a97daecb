"""Test the schema of MLflow's database: created at once, and compared with the installed MLflow."""

import io
import shutil
import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.cli import _checks as doctor
from orchestrator.cli._findings import Conditions
from orchestrator.config.loader import load
from orchestrator.config.uris import database_uri
from orchestrator.core.errors import PreflightError
from orchestrator.store.store import Store
from orchestrator.tracking import schema, ui
from orchestrator.tracking._client import classify_error, connect, short_message
from orchestrator.tracking.schema import (
    create_schema,
    require_schema,
    schema_problem,
    upgrade_command,
)
from tests.conftest import Initialize

OLDER = "451aebb31d03"  # MLflow's second revision


@pytest.fixture(autouse=True)
def created(initialize_schema: Initialize, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MLflow create the schema of every database."""
    monkeypatch.setattr(schema, "_initialize", initialize_schema)


def execute(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database)) as known, known:
        for statement in statements:
            known.execute(statement)


def set_version(database: Path, version: str) -> None:
    execute(database, f"UPDATE alembic_version SET version_num = '{version}'")


def test_the_newest_revision_is_that_of_mlflow() -> None:
    from mlflow.store.db.utils import _get_latest_schema_revision

    revisions, head = schema._revisions()
    assert head == _get_latest_schema_revision() and {head, OLDER} <= revisions


def test_an_older_schema_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, empty_database: Path
) -> None:
    database = tmp_path / "my%20runs a?b#c'd" / "mlflow.db"
    database.parent.mkdir()
    shutil.copy(empty_database, database)
    require_schema(database)
    set_version(database, OLDER)
    with pytest.raises(
        PreflightError, match=f"is out of date .its schema is {OLDER}, MLflow .* needs"
    ) as raised:
        connect(database_uri(database))
    command = upgrade_command(database)
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True
    )
    assert words.stdout.splitlines() == [
        "python",
        "-m",
        "mlflow",
        "db",
        "upgrade",
        database_uri(database),
    ], "as a shell reads it"
    assert f"run `{command}`" in str(raised.value) and command in short_message(raised.value)
    assert classify_error(raised.value) == "away", "the writes wait for it"


@pytest.mark.parametrize(
    ("version", "allowed", "message"),
    [("f" * 12, "at most {}", "newer MLflow"), (OLDER, "{}", "python -m mlflow db upgrade")],
)
def test_ui_and_doctor_refuse_another_schema(
    tracked_store: Store, version: str, allowed: str, message: str
) -> None:
    set_version(tracked_store.database, version)
    with pytest.raises(PreflightError, match=message):
        ui.serve(tracked_store, 5000, Console(file=io.StringIO()))
    with pytest.raises(PreflightError, match=message):
        doctor.check_tracking(Conditions(tracked_store.root, load(None, [])))
    shared = load(None, [f"tracking.uri={database_uri(tracked_store.database)}"])
    finding = doctor.check_tracking(Conditions(tracked_store.root.parent / "other", shared))
    assert finding.fitness == "bad" and message in finding.message
    for configuration in (load(None, []), shared):
        assert message in schema_problem(tracked_store, configuration), (
            "a plan and the start of a run report it too"
        )


def test_a_database_of_the_installed_mlflow_and_one_that_is_not_there_are_no_problem(
    tracked_store: Store, tmp_path: Path
) -> None:
    assert (
        schema_problem(tracked_store, load(None, []))
        == schema_problem(Store(tmp_path / "none"), load(None, []))
        == ""
    )


def test_a_change_of_the_schema_that_was_cut_off_is_named(tracked_store: Store) -> None:
    execute(tracked_store.database, "CREATE TABLE _alembic_tmp_experiments (experiment_id INTEGER)")
    with pytest.raises(
        PreflightError, match=r"is incomplete: .* left the table _alembic_tmp_experiments"
    ):
        require_schema(tracked_store.database)


def test_of_several_first_runs_one_makes_the_schema(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, made, together = tmp_path / "mlflow.db", [], threading.Barrier(4)

    def initialize(aside: Path, artifacts: Path) -> None:
        made.append(aside)
        assert not database.exists(), "it is not visible before it is complete"
        shutil.copy(empty_database, aside)

    def first_run() -> None:
        together.wait()
        create_schema(database, tmp_path / "artifacts")

    monkeypatch.setattr(schema, "_initialize", initialize)
    threads = [threading.Thread(target=first_run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    require_schema(database)


def test_interrupted_schema_creation_leaves_no_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(database: Path, artifacts: Path) -> None:
        database.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(schema, "_initialize", cut_off)
    with pytest.raises(KeyboardInterrupt):
        create_schema(tmp_path / "mlflow.db", tmp_path / "artifacts")
    assert [file.name for file in tmp_path.iterdir() if file.suffix != ".lock"] == []


def test_tables_of_other_programs_stay(tmp_path: Path) -> None:
    database = tmp_path / "shared.db"
    execute(database, "CREATE TABLE theirs (number INTEGER)", "INSERT INTO theirs VALUES (7)")
    assert connect(database_uri(database)).search_experiments(max_results=1)
    with closing(sqlite3.connect(database)) as known:
        assert known.execute("SELECT number FROM theirs").fetchall() == [(7,)]


def test_a_damaged_database_is_a_sentence(tracked_store: Store) -> None:
    tracked_store.database.write_bytes(b"no database, but long enough to look like one" * 100)
    with pytest.raises(PreflightError, match=r"is damaged .* restore it from a backup"):
        connect(database_uri(tracked_store.database))
