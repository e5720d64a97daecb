"""Kill and restart an MLflow server during a sweep, and kill the driver meanwhile."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.config.loader import load
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.tracking import _sender as sending
from orchestrator.tracking._runs import RUN_IDS
from orchestrator.tracking.tracker import Tracker

pytestmark = pytest.mark.faults
METRICS = ("validation/accuracy", "validation/nll", "train/loss")


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait for another process, with a time limit."""
    turn = threading.Event()
    for _ in range(int(seconds / 0.1)):
        if condition():
            return
        turn.wait(0.1)
    raise AssertionError("it did not come to pass")


class Server:
    """A real `mlflow server` on loopback; its data outlive it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        where = [
            "--backend-store-uri",
            f"sqlite:///{self.folder}/server.db",
            "--artifacts-destination",
            str(self.folder / "files"),
        ]
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
        ]
        with (self.folder / "server.log").open("ab") as log:
            environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
            self.process = subprocess.Popen(
                [*command, *where],
                start_new_session=True,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,
            )
        wait_for(self.answers)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(20)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def test_every_metric_point_arrives_once_and_in_order(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(sending, "LONGEST_RETRY_S", 1.0)
    store = Store.open(tmp_path / "store")
    configuration = load(None, ["project=tests", f"tracking.uri={server.uri}", "search.trials=3"])
    sweep = Sweep.create(store.sweep("mine"), configuration, "sweep")
    trials = [Trial(number, {"temperature": 1.0 + number}) for number in range(3)]
    messages: list[str] = []

    def driver() -> Tracker:
        found = Tracker(store, sweep)
        found.listen(messages.append)
        return found

    def train(tracker: Tracker, number: int, epochs: range, state: str = "running") -> None:
        trial = trials[number]
        trial.state = "running"
        tracker.trial_started(trial)
        for epoch in epochs:
            tracker.trial_reported(
                trial, epoch, {name: epoch + index / 10 for index, name in enumerate(METRICS)}
            )
            trial.value, trial.epochs = float(epoch), epoch
        if state != "running":
            trial.state = state  # type: ignore[assignment]
            sweep.save_trial(trial)
            tracker.trial_ended(trial)

    first = driver()
    train(first, 0, range(1, 6))
    wait_for(lambda: first.writer.unsent == 0)
    server.kill()
    train(first, 0, range(6, 11))
    train(first, 1, range(1, 21), "complete")
    wait_for(lambda: first.writer.failing)
    first.writer._end_process()  # the driver is killed too
    first.writer.writes.close()
    first.writer.files.close()
    server.start()
    second = driver()
    assert second.writer.unsent > 5
    train(second, 0, range(10, 13))  # the record lacked epoch 10
    server.kill()
    train(second, 0, range(13, 16), "complete")
    train(second, 2, range(1, 4), "stopped_early")
    wait_for(lambda: second.writer.failing)
    server.start()
    assert second.close("finished", timeout=300) == 0
    assert sum("cannot be written to" in text for text in messages) == 2
    assert (
        "answers again"
        in [text for text in messages if not text.startswith("waiting for MLflow")][-1]
    )

    client = MlflowClient(server.uri)
    ids = RUN_IDS.read(sweep.folder / "mlflow.json")
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert (
        sorted(runs) == ["mine", "mine/000 kd", "mine/001 kd", "mine/002 kd"]
        and len(set(ids.values())) == 4
    )
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for number, epochs in ((0, 15), (1, 20), (2, 3)):
        run = runs[f"mine/{number:03d} kd"]
        assert run.info.run_id == ids[str(number)] and run.data.params["temperature"] == str(
            1.0 + number
        )
        assert run.data.tags["state"] == trials[number].state
        for index, name in enumerate(METRICS):
            points = client.get_metric_history(run.info.run_id, name)
            assert [(point.step, point.value) for point in points] == [
                (epoch, epoch + index / 10) for epoch in range(1, epochs + 1)
            ]
        assert [file.path for file in client.list_artifacts(run.info.run_id)] == [
            "configuration.json"
        ]
    assert not (sweep.folder / "outbox-refused.jsonl").exists()
