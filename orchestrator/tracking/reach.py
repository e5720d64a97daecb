"""Whether somebody answers where MLflow should be, without importing it: seconds at most, and no credentials are sent."""

import contextlib
import http.client
import socket
import ssl
import urllib.error
import urllib.request
from urllib.parse import urlsplit

from orchestrator.address import WEB, scheme_of
from orchestrator.errors import ConfigurationError
from orchestrator.proxies import bypass_proxies, is_loopback
from orchestrator.records import own_record
from orchestrator.redact import redacted
from orchestrator.store import Store

PATIENCE_S = 3.0
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def unanswered(uri: str | None) -> str:
    """Why nobody answers at an address of MLflow, in a sentence; "" where somebody does, or where it cannot be known.

    Any answer will do, a refusal too: who is let in is seen with the first write.
    """
    if uri is None:
        return ""
    try:
        if scheme_of(uri) in WEB:
            _ask(uri)
        elif scheme_of(uri) in PORTS and urlsplit(uri).hostname:
            parts = urlsplit(uri)
            socket.create_connection((parts.hostname, parts.port or PORTS[scheme_of(uri)]), PATIENCE_S).close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return (
            f"nobody answers at tracking.uri {redacted(uri)} ({redacted(str(reason))}): trials go on without it, and what is to be "
            "written to MLflow is kept until it answers"
        )
    return ""


def _ask(uri: str) -> None:
    if is_loopback(uri):
        bypass_proxies(uri)
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PATIENCE_S):
            return
    except urllib.error.HTTPError:
        return
    except urllib.error.URLError as error:
        if not isinstance(error.reason, ssl.SSLError):  # whom to trust is for MLflow's own settings to say
            raise


def elsewhere(store: Store) -> list[str]:
    """The addresses of MLflow, other than the store's own, that sweeps of the store write to; they may be printed."""
    found = set()
    for name in store.sweeps():
        with contextlib.suppress(ConfigurationError):  # one that is damaged is for `status` to say
            found.add(own_record(store.sweep(name))[0].configuration.tracking.uri)
    return sorted(redacted(uri) for uri in found if uri)
