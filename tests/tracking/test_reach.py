"""Test whether MLflow answers, without its client, and the location of a store's runs."""

import http.server
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.config.loader import load
from orchestrator.core.errors import OK
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.tracking import health as reach
from orchestrator.tracking.health import find_unreachable
from orchestrator.tracking.ui import serve


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made.server_address[1]
        made.shutdown()


def test_any_answer_will_do(server: int) -> None:
    for uri in (
        f"http://127.0.0.1:{server}/mlflow",
        f"https://127.0.0.1:{server}",
        f"postgresql://ann@127.0.0.1:{server}/runs",
    ):
        assert find_unreachable(uri) == "", uri


@pytest.mark.parametrize("uri", [None, "sqlite:///mlflow.db", "databricks", "mysql:///runs"])
def test_addresses_that_cannot_be_checked_are_accepted(uri: str | None) -> None:
    assert find_unreachable(uri) == ""


def test_unresponsive_server_is_reported_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "PATIENCE_S", 0.1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)  # it never answers
        port = silent.getsockname()[1]
        assert (
            f"no server answers at tracking.uri http://127.0.0.1:{port} (timed out)"
            in find_unreachable(f"http://127.0.0.1:{port}")
        )
    for uri in (f"http://127.0.0.1:{port}", f"postgresql://127.0.0.1:{port}/runs"):
        assert "trials continue, and the writes are queued" in find_unreachable(uri)


def test_ui_prints_the_address_of_runs_on_other_servers(tmp_path: Path) -> None:
    store, output = Store.open(tmp_path), io.StringIO()
    for name, uri in (("a", "http://127.0.0.1:7000"), ("b", "postgresql://ann@db/runs")):
        Sweep.create(store.sweep(name), load(None, [f"tracking.uri={uri}"]), "sweep")
    assert serve(store, 5000, Console(file=output)) == OK
    assert "written to http://127.0.0.1:7000: open it in a browser" in output.getvalue()
    assert (
        "written to postgresql://***@db/runs: run `mlflow server --backend-store-uri`"
        in output.getvalue()
    )
