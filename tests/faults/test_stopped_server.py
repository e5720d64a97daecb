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
    load_sweep,
    resume_sweep,
    start_sweep,
)
from tests.faults.conftest import UNDISTURBED_SETTINGS, AddRow
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
    wait_for = time.monotonic() + seconds
    return lambda: time.monotonic() >= wait_for


def test_tracking_server_is_stopped_for_ten_seconds(
    server: Server, undisturbed: Sweep, tmp_path: Path, add_row: AddRow
) -> None:
    store = tmp_path / "store"
    with start_sweep(store, *UNDISTURBED_SETTINGS, f"tracking.uri={server.uri}") as driver:
        driver.wait_for(lambda: epochs(store) >= 2, "epoch 2")
        server.stop()
        before, away = epochs(store), passed(AWAY_S)
        driver.wait_for(lambda: epochs(store) > before, "epoch without a server")
        driver.wait_for(away, "ten seconds")
        server.start()
        assert driver.wait_until_ended() == 0, driver.output
    # the server's start took longer than the sweep
    if "were not sent" in driver.output:
        with resume_sweep(store) as again:
            assert again.wait_until_ended() == 0, again.output
    found = load_sweep(store)
    compare(found, undisturbed)
    assert found is not None
    check_study(found)
    points = check_runs(found, server.uri)
    add_row(
        f"the MLflow server killed, and started again {AWAY_S:g} s later",
        "once",
        len(undisturbed.trials),
        f"none of {points} points",
    )
