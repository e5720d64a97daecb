"""Addresses that a configuration may hold: what is one, and that there is no secret in it. Asks nobody."""

import re

from orchestrator.redact import redacted, secret_in

WEB = ("http", "https")
CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


def require_tracking(uri: str) -> None:
    """ValueError with a sentence where MLflow cannot write to such an address, or it holds a secret; the sentence does not."""
    found, scheme = secret_in(uri), scheme_of(uri)
    no_address = "@" in uri and "://" not in uri
    if found and scheme in WEB:
        raise ValueError(
            f"{redacted(uri)} holds {found}, which would be stored with every run: leave it out, and export {CREDENTIALS}"
        )
    if found:
        raise ValueError(
            f"{redacted(uri)} holds {found}, which would be stored with every run: leave it to what the database's driver reads by "
            "itself (PostgreSQL: PGPASSWORD or ~/.pgpass), or give the http address of an MLflow server before the database"
        )
    if no_address or scheme == "file" or not (uri == "databricks" or re.match(r"[a-z][a-z0-9+.-]*:.", uri, re.IGNORECASE)):
        shown = f"***@{uri.rpartition('@')[2]}" if no_address else redacted(uri)
        raise ValueError(
            f"{shown} is nowhere that MLflow writes runs: give the address of a server, such as http://127.0.0.1:5000, or a "
            "database, such as sqlite:////folder/mlflow.db"
        )


def scheme_of(uri: str) -> str:
    """What stands before the colon, without the driver of a database."""
    return uri.partition(":")[0].partition("+")[0].lower()
