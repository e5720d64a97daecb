"""Test the messages of interrupted runs, and of resumes after changes, without Ray."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import run
from orchestrator.store.record_file import RecordSchema
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.tracking import tracker

BAD_CONFIGURATION, INTERRUPTED = 2, 130
PLAIN = (
    "teacher=null",
    "method.name=cross_entropy",
    "training.epochs=2",
    "search.methods=[]",
    "search.trials=2",
    "search.grace_epochs=1",
)


def call(*arguments: str) -> tuple[int, str]:
    """Return exit code and everything printed."""
    result = CliRunner().invoke(run.app, list(arguments))
    return result.exit_code, result.output


def settings(*pairs: str) -> list[str]:
    return [part for pair in pairs for part in ("--set", pair)]


@pytest.fixture
def store(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the states in which runs were closed; nothing is sent to MLflow."""
    states: list[str] = []

    class Deaf:
        """A tracker that records the end."""

        def __init__(self, *_: Any) -> None:
            pass

        def __getattr__(self, name: str) -> Callable[..., None]:
            return lambda *given, **_: (
                states.append(f"{name} {given[0].state}") if name == "trial_ended" else None
            )

        def close(self, state: str, *_: Any) -> None:
            states.append(f"close {state}")

    monkeypatch.setattr(tracker, "Tracker", Deaf)
    return states


def ends(number: int) -> Callable[..., Any]:
    """Return a step that receives a signal."""

    def step(*_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), number)

    return step


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["sweep", "train"])
def test_before_the_sweep_exists(
    command: str, number: int, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.sweep.preflight.preflight.prepare", ends(number))
    code, output = call(command, "--store", store, "--name", "mine", *settings(*PLAIN))
    assert (
        code == INTERRUPTED
        and "interrupted before the sweep started: there is nothing to resume" in output
    )
    assert "--resume" not in output and not Path(store, "sweeps").exists()


@pytest.mark.parametrize(
    "where",
    ["orchestrator.store.store.write_json", "orchestrator.store.record_file.RecordSchema.keep"],
)
def test_right_after_the_sweep_is_created(
    where: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    keep = RecordSchema.keep

    def write(schema: RecordSchema[Any], file: Path, values: Any, lasting: bool = True) -> None:
        keep(schema, file, values, lasting)
        written.append(file)
        if file.name == "data.json":
            os.kill(os.getpid(), signal.SIGTERM)

    if where.startswith("orchestrator.store.store"):
        monkeypatch.setattr(
            "orchestrator.reporting.terminal.progress.Display.__enter__", ends(signal.SIGTERM)
        )
    else:
        monkeypatch.setattr(RecordSchema, "keep", write)
    code, output = call("sweep", "--store", store, "--name", "mine", *settings(*PLAIN))
    assert (
        code == INTERRUPTED
        and f"resume: python run.py sweep --resume mine --store {store}" in output
    )
    found = Sweep.open(Store(Path(store)), "mine")
    assert found.status()["state"] == "interrupted" and not found.trials


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_workers_start(
    number: int, store: str, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.cluster.connect.connect_to_ray", ends(number))
    code, output = call("sweep", "--store", store, "--name", "mine", *settings(*PLAIN))
    assert (
        code == INTERRUPTED
        and f"resume: python run.py sweep --resume mine --store {store}" in output
    )
    assert closed == ["close interrupted"]
    assert Sweep.open(Store(Path(store)), "mine").state == "interrupted"


def test_while_a_student_is_trained(
    store: str, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "orchestrator.reporting.terminal.progress.Display.trial_reported", ends(signal.SIGTERM)
    )
    code, output = call(
        "train",
        "--local",
        "--store",
        store,
        "--name",
        "mine",
        *settings(*PLAIN, "training.epochs=300"),
    )
    assert (
        code == INTERRUPTED
        and f"resume: python run.py sweep --resume mine --local --store {store}" in output
    )
    assert closed == ["trial_ended waiting", "close interrupted"], "its run is marked KILLED"
    found = Sweep.open(Store(Path(store)), "mine")
    assert found.trials[0].state == "waiting" and found.status()["state"] == "interrupted"


def test_after_the_last_trial(
    store: str, closed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal while the workers end does not change the result, and a resume trains nothing."""
    close = "orchestrator.cluster.local_backend.LocalDispatcher.close"
    with monkeypatch.context() as patch:
        patch.setattr(close, ends(signal.SIGTERM))
        pairs = settings(*PLAIN, "data.limit.train=100")
        code, _ = call("sweep", "--local", "--store", store, "--name", "mine", *pairs)
    assert code == INTERRUPTED and closed[-1] == "close finished"
    assert Sweep.open(Store(Path(store)), "mine").state == "finished"
    for starter in ("start_early", "take_cluster"):
        monkeypatch.setattr(f"orchestrator.cluster.own_cluster.{starter}", lambda *_: pytest.fail())
    code, output = call("sweep", "--resume", "mine", "--store", store)
    assert code == 0 and output.startswith("checking mine: cross_entropy on digits\n")


def array_file(folder: Path, samples: int) -> str:
    """Write noise in three classes."""
    generator, file = np.random.default_rng(0), folder / "data.npz"
    images = generator.integers(0, 255, (samples, 8, 8), dtype=np.uint8)
    labels = np.arange(samples) % 3
    np.savez(
        file,
        train_images=images,
        train_labels=labels,
        test_images=images[:30],
        test_labels=labels[:30],
    )
    return str(file)


def test_changed_data_and_settings_are_named(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = array_file(tmp_path, 240)
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.cluster.connect.connect_to_ray", ends(signal.SIGTERM))
        pairs = settings(*PLAIN, "data.name=npz", f"data.path={data}")
        assert call("sweep", "--store", store, "--name", "mine", *pairs)[0] == INTERRUPTED
    (tmp_path / "other.yaml").write_text("method: {name: kd}\n")
    for arguments, reason in {
        (
            "--config",
            str(tmp_path / "other.yaml"),
        ): r"other.yaml: method.name = kd, and the sweep has cross_entropy: leave",
        ("--trials", "1"): r"--trials 1 is less than the 2 trials",
        ("--set", "seed=1"): r"--set seed: a resumed run keeps its configuration",
    }.items():
        code, output = call("sweep", "--resume", "mine", "--store", store, *arguments)
        assert (code, output.count("\n")) == (BAD_CONFIGURATION, 2) and re.search(reason, output), (
            output
        )
    array_file(tmp_path, 300)
    code, output = call("sweep", "--resume", "mine", "--store", store)
    assert (code, output.count("\n")) == (BAD_CONFIGURATION, 2), output
    assert f"--resume mine: {data} has changed (270 samples before, 330 now): restore" in output
