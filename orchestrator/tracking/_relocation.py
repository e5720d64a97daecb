"""Correct the absolute artifact folders in an MLflow database after its store has moved."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from sqlite3 import Connection
from urllib.parse import unquote, urlsplit

from orchestrator.tracking.schema import locked, opened

FOLDER = "artifacts"  # of a store
COLUMNS = (  # columns in which MLflow stores an absolute folder of artifacts
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("experiments", "artifact_location"),
)


def relocate_artifacts(database: Path, artifacts: Path, own: bool = True) -> list[str]:
    """Point experiments, runs and models of a moved store to `artifacts`.

    A folder in the database counts as the store's earlier one if `artifacts` has artifacts of its
    runs. In the store's own database this also holds for a folder that is gone: the next write
    would create it again.

    Args:
        database: The SQLite file.
        artifacts: The folder of the store's artifacts now.
        own: Whether the database belongs to the store.

    Returns:
        The folders that runs had before; empty if all have theirs in `artifacts`.

    Raises:
        PreflightError: SQLite cannot read or change the database.
    """
    if not database.exists():
        return []
    with opened(database) as known:
        tables = {
            name for (name,) in known.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if not {"experiments", "runs"} <= tables:
            return []
        earlier = {
            before: _runs_below(known, before)
            for before in _roots(known)
            if _path(before) != artifacts
        }
        moved = [
            before for before, runs in earlier.items() if _is_moved(before, runs, artifacts, own)
        ]
        if moved:
            with locked(database), known:  # one transaction
                for before, (table, column) in product(moved, COLUMNS):
                    if table in tables:
                        _replace_prefix(known, table, column, before, artifacts.as_uri())
        return [str(_path(before)) for before in moved if earlier[before]]


def missing_artifacts(location: str, artifacts: Path) -> str:
    """Return why files for this artifact location would be misplaced, with the next step.

    Returns "" if they would not. This concerns an experiment of a database that several stores
    share, whose folder was that of a store.
    """
    folder = _path(location)
    if folder is None or folder == artifacts or folder.parent.exists():
        return ""
    return (
        f"MLflow's experiment stores its artifacts in {folder}, but {folder.parent} does not "
        f"exist: move it back, or set another `project`; until then that folder is created "
        "again for the files of its runs"
    )


def _roots(known: Connection) -> Iterator[str]:
    """Yield the folders of stores that experiments name.

    They are `.../artifacts`, or `.../artifacts/ID` for an experiment created in MLflow's interface.
    """
    rows = known.execute(
        "SELECT experiment_id, artifact_location FROM experiments WHERE artifact_location IS "
        "NOT NULL"
    )
    yield from sorted(
        {
            location.removesuffix(f"/{number}")
            for number, location in rows
            if _is_root(location, number)
        }
    )


def _is_root(location: str, number: int) -> bool:
    path = _path(location.removesuffix(f"/{number}"))
    return path is not None and path.is_absolute() and path.name == FOLDER


def _path(location: str) -> Path | None:
    """Return the folder of an artifact location (a file URI or a path), or None for a server's."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(location) if "://" not in location and location.startswith("/") else None


def _runs_below(known: Connection, folder: str) -> list[str]:
    """Return the folders of runs below a folder, relative to it."""
    below = f"{folder}/"
    rows = known.execute(
        "SELECT artifact_uri FROM runs WHERE substr(artifact_uri, 1, ?) = ?", (len(below), below)
    )
    return [unquote(uri[len(below) :]) for (uri,) in rows]


def _is_moved(before: str, runs: Sequence[str], artifacts: Path, own: bool) -> bool:
    folder = _path(before)
    return any((artifacts / run).exists() for run in runs) or (
        own and folder is not None and not folder.exists()
    )


def _replace_prefix(known: Connection, table: str, column: str, before: str, now: str) -> None:
    known.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR "
        f"substr({column}, 1, ?) = ?",
        (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
    )
