"""Test MLflow's client on servers that refuse, break or hang: writes are kept, one note each."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.config.loader import load
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.tracking import _writer as writing
from orchestrator.tracking.tracker import Tracker

SECRET = "sesame-42"
Serve = Callable[[int | None], tuple[str, list[str]]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Return a function that serves one status, or nothing, and records the credentials."""
    for name, value in {"MAX_RETRIES": "0", "TIMEOUT": "1"}.items():
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{name}", value)
    ended, servers = threading.Event(), []

    def start(status: int | None) -> tuple[str, list[str]]:
        sent: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                sent.append(self.headers.get("Authorization", ""))
                if status is None:
                    ended.wait(30)
                    return
                content = f"no entry with password={SECRET}".encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}", sent

    yield start
    ended.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "refuses the credentials"),
        (403, "refuses the credentials"),
        (404, "cannot be written to"),
        (503, "cannot be written to (too many 503 error responses)"),
        (None, "cannot be written to (timed out)"),
    ],
)
def test_writes_are_kept(
    status: int | None, message: str, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "STALL_S", 0.0)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    uri, sent = serve(status)
    store = Store.open(tmp_path)
    sweep = Sweep.create(store.sweep("mine"), load(None, [f"tracking.uri={uri}"]), "sweep")
    notes: list[str] = []
    tracker = Tracker(store, sweep)
    monkeypatch.setattr(writing, "NOTICE_S", 60.0)
    tracker.listen(notes.append)
    unsent = tracker.writer.unsent
    assert tracker.close("finished") > unsent > 0
    assert message in notes[0] and len(notes) == 2 and "were not sent" in notes[1]
    assert set(sent) == {"Basic YW5uOnNlc2FtZS00Mg=="}, "from the environment"
    assert SECRET not in "".join(notes)
    written = b"".join(file.read_bytes() for file in store.root.rglob("*") if file.is_file())
    assert SECRET.encode() not in written and b"YW5uOnNlc2FtZS00Mg" not in written
    assert not (sweep.folder / "outbox-refused.jsonl").exists()
