"""Connect to MLflow, and classify its errors."""

import logging
import os
import re
from typing import Any, Literal

from orchestrator.config.uris import database_file, database_uri
from orchestrator.core.errors import UserError
from orchestrator.core.redact import redact
from orchestrator.tracking.overrides import switch_off
from orchestrator.tracking.schema import create_schema

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# MLflow's defaults retry for minutes
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
REASON = re.compile(
    r"\[Errno -?\d+\] [^'\")>]+|timed out|too many \d+ error responses|certificate verify "
    r"failed[^'\")>]*"
)
ErrorKind = Literal["away", "denied", "refused"]


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of an error, or None if it has none.

    A path that the server does not have (ENDPOINT_NOT_FOUND) counts as a server that is away (503).
    """
    if getattr(error, "error_code", None) == "ENDPOINT_NOT_FOUND":
        return 503
    status = getattr(error, "get_http_status_code", None)
    if status is not None:
        return int(status())
    status = getattr(getattr(error, "response", None), "status_code", None)
    return int(status) if status is not None else None


def classify_error(error: Exception) -> ErrorKind:
    """Classify the error of a write.

    Returns:
        "away" if a retry may succeed, "denied" if other credentials are needed, "refused" if a
        retry cannot succeed.
    """
    status = status_of(error)
    if status in (401, 403):
        return "denied"
    if status is None:
        return "away" if isinstance(error, OSError | UserError) else "refused"
    return "away" if status >= 500 or status in (408, 429) else "refused"


def short_message(error: Exception) -> str:
    """Return the message of an error in one printable line; of a failed request only the reason."""
    message = redact(" ".join(str(error).split())) or type(error).__name__
    if isinstance(error, UserError):
        return message  # it contains a command to copy
    reason = REASON.search(message) if "API request" in message else None
    return reason[0] if reason else message[:200]


def set_mlflow_defaults() -> None:
    """Set the environment variables that MLflow reads on each call.

    Values of the user stay, unless they would lose writes.
    """
    for name, value in (PATIENCE | QUIET).items():
        os.environ.setdefault(name, value)
    switch_off()


def connect(uri: str) -> Any:
    """Return an MLflow client that logs errors only and gives up early.

    Runs and registered models are those at `uri`, whatever the environment names. The environment
    can set other retries and timeouts.

    Raises:
        PreflightError: `uri` is a SQLite file that the installed MLflow cannot use.
    """
    set_mlflow_defaults()
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic", "urllib3.connectionpool"):  # these log every attempt
        logging.getLogger(name).setLevel(logging.ERROR)
    # This logger prints whole statements; the sender reports the error in one line
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    if file := database_file(uri):
        create_schema(file.absolute(), file.absolute().parent / "artifacts")
        uri = database_uri(file.absolute())
    return MlflowClient(tracking_uri=uri, registry_uri=uri)
