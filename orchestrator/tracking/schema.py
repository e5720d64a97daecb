"""Create the schema of an MLflow database in SQLite, and compare it with the installed MLflow's.

A lock ensures that one process creates it.
"""

import contextlib
import importlib.metadata
import importlib.util
import re
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from orchestrator.config.schema import Configuration
from orchestrator.config.uris import database_file, database_uri
from orchestrator.core.errors import PreflightError
from orchestrator.store.store import Store, replacing

# Longest wait for another process that creates the schema; this takes CPU seconds, more under load
LOCK_S = 300.0
BUSY_S = 20.0
REVISION = re.compile(r"""^(revision|down_revision)\b[^=\n]*=\s*(.*)$""", re.MULTILINE)
QUOTED = re.compile(r"""["'](\w+)["']""")


def require_schema(database: Path) -> None:
    """Check that the installed MLflow can read and write this database.

    A file that is missing, is empty or has no MLflow schema yet is accepted: MLflow creates the
    schema.

    Raises:
        PreflightError: MLflow cannot use the database. The message names the command to run.
    """
    tables, version = _contents(database)
    leftover = next((name for name in sorted(tables) if name.startswith("_alembic_tmp_")), "")
    if leftover:
        raise PreflightError(
            f"the schema of MLflow's database {database} is incomplete: an interrupted migration "
            f"left the table {leftover}; restore the file from a backup, or remove it if it "
            "holds no runs yet, and it is created again"
        ).with_details(str(database), leftover)
    revisions, head = _revisions()
    if version is None or head is None or version == head:
        return
    installed = importlib.metadata.version("mlflow")
    if version in revisions:
        raise PreflightError(
            f"MLflow's database {database} is out of date (its schema is {version}, MLflow "
            f"{installed} needs {head}): back up the file, then run `{upgrade_command(database)}`"
        ).with_details(str(database), version, head)
    raise PreflightError(
        f"MLflow's database {database} was written by a newer MLflow (its schema is {version}, "
        f"and the newest of MLflow {installed} is {head}): update MLflow, or set another --store"
    ).with_details(str(database), version, f"at most {head}")


def schema_problem(store: Store, configuration: Configuration) -> str:
    """Return why the installed MLflow cannot write to the database of the runs, and what to do.

    Returns "" if it can, and for a server.
    """
    uri = configuration.tracking.uri
    database = store.database if uri is None else database_file(uri)
    try:
        if database:
            require_schema(database)
    except PreflightError as error:
        return f"{error}; trials continue, and the writes are queued until then"
    return ""


def upgrade_command(database: Path) -> str:
    """Return the command line that upgrades a database to the schema of the installed MLflow."""
    return f"python -m mlflow db upgrade {shlex.quote(database_uri(database))}"


def create_schema(database: Path, artifacts: Path) -> None:
    """Create the database if there is none.

    One process at a time creates a temporary file and renames it when it is complete. Other
    processes wait for it. A kill leaves nothing that looks like a database.

    Args:
        database: The SQLite file.
        artifacts: The artifact folder of its default experiment.

    Raises:
        PreflightError: MLflow cannot use the database, or another process holds the lock for
            `LOCK_S`.
    """
    version = _contents(database)[1]
    if version is not None and version == _revisions()[1]:
        return
    with locked(database):
        tables, version = _contents(database)
        if not tables:
            with replacing(database) as temporary:
                _initialize(temporary, artifacts)
        elif version is None:
            _initialize(database, artifacts)  # shared with other programs: it has only their tables
        require_schema(database)


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the lock of a database, for changes of its schema or of the folders in it.

    Raises:
        PreflightError: Another process holds the lock for `LOCK_S`.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(database.with_name(f"{database.name}.lock"))
    try:
        with lock.acquire(timeout=LOCK_S):
            yield
    except Timeout as error:
        raise PreflightError(
            f"waited {LOCK_S:g} s for another process to create {database}: check which process "
            f"holds {lock.lock_file}"
        ).with_details(str(lock.lock_file), LOCK_S) from error


@contextlib.contextmanager
def opened(database: Path) -> Iterator[sqlite3.Connection]:
    """Open an existing database, and close it at the end.

    Raises:
        PreflightError: SQLite cannot read or change the database, or it is damaged.
    """
    try:  # not mode=ro, which could not roll back the partial write of a killed process
        known = sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_S)
        with contextlib.closing(known):
            yield known
    except sqlite3.OperationalError as error:
        raise PreflightError(
            f"SQLite cannot use {database} ({error}): check which process holds it and "
            f"whether it is writable"
        ).with_details(str(database), str(error), "a file that can be read and written") from error
    except sqlite3.DatabaseError as error:
        raise PreflightError(
            f"{database} is damaged ({error}): restore it from a backup, or move it away"
        ).with_details(str(database), str(error), "an SQLite database") from error


def _initialize(database: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(database_uri(database), artifacts.as_uri()).engine.dispose()


def _contents(database: Path) -> tuple[set[str], str | None]:
    """Return the names of the tables and the schema revision, which is None if there is none."""
    if not database.is_file() or not database.stat().st_size:
        return set(), None
    with opened(database) as known:
        tables = {
            str(name)
            for (name,) in known.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if "alembic_version" in tables:
            row = known.execute("SELECT version_num FROM alembic_version").fetchone()
        else:
            row = None
    return tables, str(row[0]) if row else None


def _revisions() -> tuple[set[str], str | None]:
    """Return all revisions that the installed MLflow has, and the newest.

    They are read as text, because importing them takes seconds.
    """
    spec = importlib.util.find_spec("mlflow")
    folders = [
        Path(location, "store", "db_migrations", "versions")
        for location in (spec and spec.submodule_search_locations) or ()
    ]
    revisions: set[str] = set()
    before: set[str] = set()
    for file in (file for folder in folders for file in folder.glob("*.py")):
        for name, value in REVISION.findall(file.read_text(encoding="utf-8")):
            (revisions if name == "revision" else before).update(QUOTED.findall(value))
    heads = revisions - before
    return revisions, heads.pop() if len(heads) == 1 else None
