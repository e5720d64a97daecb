"""Stop MLflow's server for ten seconds of a sweep: trials continue, every point arrives once."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.store.records import Sweep
from tests.faults.broken import (
    check_runs,
    check_study,
    compare,
    epochs,
    record,
    resumed,
    start_sweep,
)
from tests.faults.conftest import WHOLE, AddRow
from tests.faults.mlflow_server import Server

pytestmark = pytest.mark.faults
AWAY_S = 10.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "mlflow")
    made.start()
    yield made
    made.stop()


def passed(seconds: float) -> Callable[[], bool]:
    """Return a condition: `seconds` have passed."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


def test_a_server_is_gone_for_ten_seconds(
    server: Server, whole: Sweep, tmp_path: Path, add_row: AddRow
) -> None:
    store = tmp_path / "store"
    with start_sweep(store, *WHOLE, f"tracking.uri={server.uri}") as life:
        life.until(lambda: epochs(store) >= 2, "epoch 2")
        server.stop()
        before, away = epochs(store), passed(AWAY_S)
        life.until(lambda: epochs(store) > before, "epoch without a server")
        life.until(away, "ten seconds")
        server.start()
        assert life.ended() == 0, life.output
    # the server's start took longer than the sweep
    if "sent with the next `sweep --resume" in life.output:
        with resumed(store) as again:
            assert again.ended() == 0, again.output
    found = record(store)
    compare(found, whole)
    assert found is not None
    check_study(found)
    points = check_runs(found, server.uri)
    add_row(
        f"the MLflow server killed, and started again {AWAY_S:g} s later",
        "once",
        len(whole.trials),
        f"none of {points} points",
    )
