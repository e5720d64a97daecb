"""Check that an MLflow server answers and accepts the credentials, before anything is written."""

import contextlib
import http.client
import os
import socket
import ssl
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from orchestrator.config.uris import WEB, scheme_of
from orchestrator.core.errors import ConfigurationError, UserError
from orchestrator.core.proxies import bypass_proxies, is_loopback
from orchestrator.core.redact import redact
from orchestrator.store.records import own_record
from orchestrator.store.store import Store

PATIENCE_S = 3.0
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# MLflow's defaults retry for minutes
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}
REFUSED = (401, 403)


def find_unreachable(uri: str | None) -> str:
    """Return why an MLflow address does not answer, in one sentence.

    Any answer counts, including a refusal: the first write checks the credentials.

    Args:
        uri: The tracking URI; None for the store's own database.

    Returns:
        "" if the address answers, or if this cannot be known.
    """
    if uri is None:
        return ""
    try:
        if scheme_of(uri) in WEB:
            _request(uri)
        elif scheme_of(uri) in PORTS and urlsplit(uri).hostname:
            parts = urlsplit(uri)
            socket.create_connection(
                (parts.hostname, parts.port or PORTS[scheme_of(uri)]), PATIENCE_S
            ).close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return (
            f"no server answers at tracking.uri {redact(uri)} ({redact(str(reason))}): trials "
            f"continue, and the writes are queued until it answers"
        )
    return ""


def _request(uri: str) -> None:
    if is_loopback(uri):
        bypass_proxies(uri)
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PATIENCE_S):
            return
    except urllib.error.HTTPError:
        return
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # MLflow's own settings decide on trust
            raise


def other_tracking_addresses(store: Store) -> list[str]:
    """Return the MLflow addresses, other than the store's own, that its sweeps write to.

    Secrets are removed, so the addresses may be printed.
    """
    addresses = set()
    for name in store.sweeps():
        with contextlib.suppress(ConfigurationError):  # `status` reports a damaged record
            addresses.add(own_record(store.sweep(name))[0].configuration.tracking.uri)
    return sorted(redact(uri) for uri in addresses if uri)


def find_refusal(uri: str) -> str:
    """Return why MLflow at `uri` cannot be used, with the next step; "" if it answers.

    The credentials are those of the environment.
    """
    from orchestrator.tracking._client import connect

    before = {name: os.environ.get(name) for name in PATIENCE}
    os.environ.update({name: value for name, value in PATIENCE.items() if before[name] is None})
    try:
        connect(uri).search_experiments(max_results=1)
    except Exception as error:  # MLflow raises errors of its store, server or network
        if isinstance(error, UserError):
            return str(error)
        status = getattr(error, "get_http_status_code", lambda: None)()
        if status in REFUSED:
            step = (
                "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN"
            )
            return f"MLflow at {uri} refuses the credentials ({status}): {step}"
        reason = " ".join(str(error).split())[:300]
        return (
            f"MLflow at {uri} does not answer ({reason}): start it, or omit "
            f"tracking.uri to write into the store"
        )
    finally:
        for name in [name for name, value in before.items() if value is None]:
            os.environ.pop(name, None)
    return ""
