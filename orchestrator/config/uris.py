"""Validate MLflow tracking URIs offline, and convert between SQLite files and URIs."""

import re
from pathlib import Path
from urllib.parse import unquote

from orchestrator.core.errors import FieldError
from orchestrator.core.redact import find_secret, redact

WEB = ("http", "https")
CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


def require_tracking(uri: str) -> None:
    """Require a URI to which MLflow can write, and which contains no secret.

    Raises:
        FieldError: MLflow cannot write to the URI, or it contains a secret, which the message
            omits.
    """
    secret, scheme = find_secret(uri), scheme_of(uri)
    no_address = "@" in uri and "://" not in uri
    if secret and scheme in WEB:
        raise FieldError(
            f"{redact(uri)} contains {secret}, which would be stored with every run: remove it and "
            f"set the environment variables {CREDENTIALS}"
        ).with_details(None, uri, "an address without a secret")
    if secret:
        raise FieldError(
            f"{redact(uri)} contains {secret}, which would be stored with every run: remove it and "
            f"let the database driver read it (PostgreSQL: PGPASSWORD or ~/.pgpass), or give the "
            f"http address of an MLflow server that uses the database"
        ).with_details(None, uri, "an address without a secret")
    if (
        no_address
        or scheme == "file"
        or not (uri == "databricks" or re.match(r"[a-z][a-z0-9+.-]*:.", uri, re.IGNORECASE))
    ):
        shown = f"***@{uri.rpartition('@')[2]}" if no_address else redact(uri)
        raise FieldError(
            f"{shown} is not a tracking URI of MLflow: give the address of a server, for example "
            f"http://127.0.0.1:5000, or of a database, for example sqlite:////folder/mlflow.db"
        ).with_details(None, shown, "the address of a server or a database")


def database_uri(file: Path) -> str:
    """Return the URI of a SQLite file for MLflow and SQLAlchemy, for any characters in its path.

    SQLAlchemy decodes the path. MLflow creates the folders of a path after `sqlite:///` without
    decoding. A path that must be escaped therefore names its driver too, because MLflow creates no
    folders for such a URI.
    """
    path = str(file)
    escaped = path.translate({ord(sign): f"%{ord(sign):02X}" for sign in "%?#"})
    return f"{'sqlite' if escaped == path else 'sqlite+pysqlite'}:///{escaped}"


def database_file(uri: str) -> Path | None:
    """Return the file of a SQLite URI.

    Return None for another database, an in-memory database, and a URI with options after a `?`.
    """
    name = uri.partition(":///")[2]
    if scheme_of(uri) != "sqlite" or not name or "?" in name or name == ":memory:":
        return None
    return Path(unquote(name))


def scheme_of(uri: str) -> str:
    """Return the text before the colon in lower case, without the driver of a database."""
    return uri.partition(":")[0].partition("+")[0].lower()
