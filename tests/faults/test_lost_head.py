"""Kill the head of a running cluster during a sweep: a message, exit code 3, no failed trial."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray.cluster_utils import Cluster

from orchestrator.cluster.own_cluster import OWN_CLUSTER
from orchestrator.core.errors import UNFIT_ENVIRONMENT

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]
DEADLINE_S = 240.0
CHANGES = (
    "data.name=digits",
    "teacher.network.width=32",
    "teacher.training.epochs=2",
    "method.name=kd",
    "student.name=cnn",
    "search.trials=50",
    "search.scheduler=none",
    "training.epochs=30",
)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Run a head of one CPU, on loopback with Ray's token."""
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    with patch.dict(os.environ, OWN_CLUSTER):
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        made = Cluster()
        try:
            made.add_node(num_cpus=1)
            yield made
        finally:
            made.shutdown()


def wait(
    condition: Callable[[], bool], process: "subprocess.Popen[str]", output_file: Path
) -> None:
    """Wait until the condition holds.

    Raises:
        AssertionError: The process ends before, or the time runs out.
    """
    wait_for = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None and time.monotonic() < wait_for, output_file.read_text()
        time.sleep(0.1)


def test_death_of_the_head_node_ends_the_sweep_with_an_error(
    cluster: Cluster, tmp_path: Path
) -> None:
    output_file, folder = tmp_path / "output.txt", tmp_path / "store" / "sweeps" / "lost"
    options = [part for change in CHANGES for part in ("--set", change)]
    place = ["--address", cluster.address, "--name", "lost", "--store", str(tmp_path / "store")]
    with output_file.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), "sweep", *place, *options],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    try:
        wait(lambda: any(folder.glob("trials/*/checkpoint/progress.json")), process, output_file)
        cluster.head_node.all_processes["gcs_server"][0].process.kill()
        assert process.wait(DEADLINE_S) == UNFIT_ENVIRONMENT, output_file.read_text()
    finally:
        process.kill()
        process.wait()
    assert "error: the head node of the Ray cluster does not respond: " in output_file.read_text()
    assert (
        "does not respond" in json.loads((folder / "sweep.json").read_text())["notes"][-1]["text"]
    )
    states = {json.loads(file.read_text())["state"] for file in folder.glob("trials/*/trial.json")}
    assert "failed" not in states, "whether the main thread heard of it or not: a resume goes on"
