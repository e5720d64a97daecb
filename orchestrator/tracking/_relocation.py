"""Artifacts follow their store: the absolute folders in a database of MLflow are mended when the store has been moved."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from sqlite3 import Connection
from urllib.parse import unquote, urlsplit

from orchestrator.tracking.schema import locked, opened

FOLDER = "artifacts"  # of a store
COLUMNS = (  # where MLflow writes down an absolute folder of artifacts
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("experiments", "artifact_location"),
)


def relocate_artifacts(database: Path, artifacts: Path, own: bool = True) -> list[str]:
    """Let experiments, runs and models of a moved store find their artifacts in `artifacts`.

    A folder that the database names is taken for the store's earlier one where artifacts of its runs are in `artifacts` now. In
    a database of the store's `own` that also goes for a folder that is gone: what is written next would make it anew.

    Returns:
        The folders that runs had before; nothing where all have theirs in `artifacts`.

    Raises:
        PreflightError: SQLite cannot read or change the database.
    """
    if not database.exists():
        return []
    with opened(database) as known:
        tables = {name for (name,) in known.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"experiments", "runs"} <= tables:
            return []
        others = {before: _runs_below(known, before) for before in _roots(known) if _path(before) != artifacts}
        found = [before for before, runs in others.items() if _is_moved(before, runs, artifacts, own)]
        if found:
            with locked(database), known:  # one transaction
                for before, (table, column) in product(found, COLUMNS):
                    if table in tables:
                        _replace_prefix(known, table, column, before, artifacts.as_uri())
        return [str(_path(before)) for before in found if others[before]]


def missing_artifacts(location: str, artifacts: Path) -> str:
    """Return why files for this artifact location would go astray, with the next step; "" where they do not.

    For an experiment of a database that several stores share, whose folder was that of a store.
    """
    folder = _path(location)
    if folder is None or folder == artifacts or folder.parent.exists():
        return ""
    return (
        f"MLflow's experiment keeps its artifacts in {folder}, and {folder.parent} is not there (any more): move it back, or begin "
        "with another `project`; until then files of its runs are written to that folder anew"
    )


def _roots(known: Connection) -> Iterator[str]:
    """The folders of stores that experiments name: `.../artifacts`, or `.../artifacts/ID` of one made in MLflow's interface."""
    rows = known.execute("SELECT experiment_id, artifact_location FROM experiments WHERE artifact_location IS NOT NULL")
    yield from sorted({location.removesuffix(f"/{number}") for number, location in rows if _is_root(location, number)})


def _is_root(location: str, number: int) -> bool:
    path = _path(location.removesuffix(f"/{number}"))
    return path is not None and path.is_absolute() and path.name == FOLDER


def _path(location: str) -> Path | None:
    """The folder of an artifact location: an address of a file, or a path; None for one on a server."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(location) if "://" not in location and location.startswith("/") else None


def _runs_below(known: Connection, folder: str) -> list[str]:
    """The folders of runs below a folder, relative to it."""
    below = f"{folder}/"
    rows = known.execute("SELECT artifact_uri FROM runs WHERE substr(artifact_uri, 1, ?) = ?", (len(below), below))
    return [unquote(uri[len(below) :]) for (uri,) in rows]


def _is_moved(before: str, runs: Sequence[str], artifacts: Path, own: bool) -> bool:
    folder = _path(before)
    return any((artifacts / run).exists() for run in runs) or (own and folder is not None and not folder.exists())


def _replace_prefix(known: Connection, table: str, column: str, before: str, now: str) -> None:
    known.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR substr({column}, 1, ?) = ?",
        (now, len(before) + 1, before, len(before) + 1, f"{before}/"),
    )
