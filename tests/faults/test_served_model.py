"""Test the registered model behind a real MLflow server and `mlflow models serve`."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from orchestrator.store.store import Store, read_json
from orchestrator.tracking import model_registry
from tests.checkpointed import start_sweep, student, track, with_student
from tests.faults.test_tracking_server import Server, wait_for

pytestmark = pytest.mark.faults


def answer(port: int, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the predictions of the served model."""
    body = json.dumps({"inputs": images.tolist()}).encode()
    http_request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(http_request, timeout=60) as reply:
        return np.array(json.load(reply)["predictions"], np.float32)


def healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except (OSError, urllib.error.URLError):
        return False


def test_served_model_has_the_logits_of_the_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_registry, "KINDS", ("sweep",))
    tracking = Server(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serving: subprocess.Popen[bytes] | None = None
    try:
        tracking.start()
        store = Store.open(tmp_path / "store")
        sweep = start_sweep(store, f"tracking.uri={tracking.uri}")
        track(store, sweep, with_student(sweep, 0, 0.5))
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "models",
            "serve",
            "--model-uri",
            "models:/tests-mine@best",
            "--env-manager",
            "local",
        ]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"MLFLOW_TRACKING_URI": tracking.uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        with (tmp_path / "serving.log").open("ab") as log:
            serving = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port)],
                start_new_session=True,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=tmp_path,
            )
        wait_for(lambda: healthy(port))
        images = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
        data = read_json(sweep.folder / "data.json")
        mean, std = (torch.tensor(data[name]).view(-1, 1, 1) for name in ("mean", "std"))
        with torch.no_grad():
            expected = student(0)((torch.from_numpy(images) - mean) / std).logits.numpy()
        assert np.allclose(answer(port, images), expected, atol=1e-5)
    finally:
        if serving:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(serving.pid, signal.SIGKILL)
            serving.wait(20)
        tracking.kill()
