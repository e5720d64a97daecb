"""The schema of an MLflow database in SQLite: created once under a lock, and compared with that of the installed MLflow."""

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

LOCK_S = 300.0  # longest wait for another process that creates the schema: seconds of CPU, on a machine that may be busy
BUSY_S = 20.0
REVISION = re.compile(r"""^(revision|down_revision)\b[^=\n]*=\s*(.*)$""", re.MULTILINE)
QUOTED = re.compile(r"""["'](\w+)["']""")


def require_schema(database: Path) -> None:
    """Raise PreflightError with the command to type where the installed MLflow does not read or write this database.

    A file that does not exist, is empty or has no schema of MLflow yet is none: MLflow creates what is missing.
    """
    tables, version = _contents(database)
    leftover = next((name for name in sorted(tables) if name.startswith("_alembic_tmp_")), "")
    if leftover:
        raise PreflightError(
            f"the schema of MLflow's database {database} is incomplete: a change of it was cut off and left the table {leftover}. "
            "Put the file back from a backup; if it holds no runs yet, remove it, and it is made anew",
            field=str(database),
            value=leftover,
        )
    revisions, head = _revisions()
    if version is None or head is None or version == head:
        return
    installed = importlib.metadata.version("mlflow")
    if version in revisions:
        raise PreflightError(
            f"MLflow's database {database} is out of date (its schema is {version}, MLflow {installed} needs {head}): copy the "
            f"file to keep a backup, then run `{upgrade_command(database)}`",
            field=str(database),
            value=version,
            allowed=head,
        )
    raise PreflightError(
        f"MLflow's database {database} was written by a newer MLflow (its schema is {version}, and MLflow {installed} knows {head} "
        "as the newest): update MLflow here, or give another --store",
        field=str(database),
        value=version,
        allowed=f"at most {head}",
    )


def schema_problem(store: Store, configuration: Configuration) -> str:
    """Return why the installed MLflow cannot write to the database that runs go to, and what to do; empty where it can."""
    uri = configuration.tracking.uri
    database = store.database if uri is None else database_file(uri)
    try:
        if database:
            require_schema(database)
    except PreflightError as error:
        return f"{error}; trials go on, and what is written is kept until then"
    return ""


def upgrade_command(database: Path) -> str:
    """Return the command line that brings a database to the schema of the installed MLflow."""
    return f"python -m mlflow db upgrade {shlex.quote(database_uri(database))}"


def create_schema(database: Path, artifacts: Path) -> None:
    """Create the database if there is none, with `artifacts` as the folder of its default experiment.

    It is made aside and renamed when it is whole, by one process at a time: others wait for it, and a kill leaves nothing that
    looks like a database. Raises PreflightError as `require_schema` does, or where another process holds the lock for long.
    """
    version = _contents(database)[1]
    if version is not None and version == _revisions()[1]:
        return
    with locked(database):
        tables, version = _contents(database)
        if not tables:
            with replacing(database) as aside:
                _initialize(aside, artifacts)
        elif version is None:
            _initialize(database, artifacts)  # of a database that others share
        require_schema(database)


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Be the one process that changes the schema of a database, or the places that it names."""
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(database.with_name(f"{database.name}.lock"))
    try:
        with lock.acquire(timeout=LOCK_S):
            yield
    except Timeout as error:
        raise PreflightError(
            f"waited {LOCK_S:g} s for another process to create {database}: see what holds {lock.lock_file}",
            field=str(lock.lock_file),
            value=LOCK_S,
        ) from error


@contextlib.contextmanager
def opened(database: Path) -> Iterator[sqlite3.Connection]:
    """Open a database that exists, and close it; PreflightError when SQLite cannot read or change it."""
    try:  # not mode=ro, in which what a killed process left half written could not be rolled back
        known = sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_S)
        with contextlib.closing(known):
            yield known
    except sqlite3.OperationalError as error:
        raise PreflightError(
            f"SQLite cannot use {database} ({error}): see who holds it, and whether you may write it",
            field=str(database),
            value=str(error),
            allowed="a file that can be read and written",
        ) from error
    except sqlite3.DatabaseError as error:
        raise PreflightError(
            f"{database} is damaged ({error}): put it back from a backup, or move it away",
            field=str(database),
            value=str(error),
            allowed="a database of SQLite",
        ) from error


def _initialize(database: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(database_uri(database), artifacts.as_uri()).engine.dispose()


def _contents(database: Path) -> tuple[set[str], str | None]:
    """Return the names of the tables, and the revision of the schema; None where there is none."""
    if not database.is_file() or not database.stat().st_size:
        return set(), None
    with opened(database) as known:
        tables = {str(name) for (name,) in known.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        row = known.execute("SELECT version_num FROM alembic_version").fetchone() if "alembic_version" in tables else None
    return tables, str(row[0]) if row else None


def _revisions() -> tuple[set[str], str | None]:
    """Return all revisions that the installed MLflow knows, and the newest. Read as text: importing them takes seconds."""
    found = importlib.util.find_spec("mlflow")
    folders = [Path(place, "store", "db_migrations", "versions") for place in (found and found.submodule_search_locations) or ()]
    revisions: set[str] = set()
    before: set[str] = set()
    for file in (file for folder in folders for file in folder.glob("*.py")):
        for name, value in REVISION.findall(file.read_text(encoding="utf-8")):
            (revisions if name == "revision" else before).update(QUOTED.findall(value))
    heads = revisions - before
    return revisions, heads.pop() if len(heads) == 1 else None
