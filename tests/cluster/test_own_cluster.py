"""Test that our own cluster stays on this machine, and that it ends, without Ray's processes."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import psutil
import pytest
import ray
from ray.train.torch import TorchConfig

from orchestrator.cluster import own_cluster
from orchestrator.cluster._file_rendezvous import FileRendezvous, rendezvous_file
from orchestrator.cluster._rendezvous import RayRendezvous, _torch_config, torch_config
from orchestrator.cluster.connect import connect_to_ray
from orchestrator.cluster.own_cluster import READY, OwnCluster, start_early, take_cluster
from orchestrator.core.errors import PreflightError

WAITS = f"print({READY!r}, flush=True); import sys; sys.stdin.read()"  # a cluster that runs
STARTS = "import time; time.sleep(600)"  # a cluster that is not up yet
IGNORES = f"print({READY!r}, flush=True); import time; time.sleep(600)"  # one that does not end
FAILS = "print('no space left')"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the program that starts Ray by one that only waits."""
    monkeypatch.setattr(own_cluster, "PROGRAM", WAITS)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, program: None) -> dict[str, str]:
    """Return the environment at the moment of `ray.init`."""
    environment: dict[str, str] = {}

    def init(**options: Any) -> None:
        environment.update(os.environ, address=options["address"])

    for name in (
        "GLOO_SOCKET_IFNAME",
        "NCCL_SOCKET_IFNAME",
        "RAY_USAGE_STATS_ENABLED",
        "RAY_ADDRESS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    return environment


def test_an_own_cluster_uses_loopback_and_authentication(started: dict[str, str]) -> None:
    before = dict(os.environ)
    with connect_to_ray(None):
        pass
    assert started["RAY_ADDRESS"].startswith("127.0.0.1:")
    assert started["address"] == started["RAY_ADDRESS"]
    assert started["GLOO_SOCKET_IFNAME"] == started["NCCL_SOCKET_IFNAME"]
    assert socket.if_nametoindex(started["GLOO_SOCKET_IFNAME"]) and started[
        "GLOO_SOCKET_IFNAME"
    ].startswith("lo")
    assert started["RAY_USAGE_STATS_ENABLED"] == "0" and started["RAY_AUTH_MODE"] == "token"
    assert dict(os.environ) == before


def test_variables_of_the_user_are_kept(
    started: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    with connect_to_ray(None):
        pass
    assert started["NCCL_SOCKET_IFNAME"] == "eth0" and started["RAY_USAGE_STATS_ENABLED"] == "1"


@pytest.mark.parametrize("source", [WAITS, STARTS, IGNORES])
def test_a_cluster_ends_in_any_state(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_cluster, "PROGRAM", source)
    monkeypatch.setattr(own_cluster, "END_S", 0.5)
    cluster = OwnCluster()
    if source != STARTS:
        cluster.wait()
    assert cluster._process.poll() is None
    cluster.end()
    assert cluster._process.returncode == (0 if source == WAITS else -9)


def test_a_cluster_ends_with_the_process_that_started_it() -> None:
    driver = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from orchestrator.cluster import own_cluster\n"
            "own_cluster.PROGRAM = sys.argv[1]\n"
            "print(own_cluster.OwnCluster()._process.pid, flush=True)\n"
            "time.sleep(600)",
            WAITS,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    with driver:
        assert driver.stdout is not None
        process = psutil.Process(int(driver.stdout.readline()))
        assert process.is_running()
        driver.kill()
    until = time.monotonic() + 60
    while is_running(process) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(process)


def is_running(process: psutil.Process) -> bool:
    """Return whether a process runs; one that only its parent has to wait for does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_early_cluster_is_used_once_and_ends_with_its_block(program: None) -> None:
    with start_early():
        early = take_cluster(None)
        other = take_cluster(None)
        assert other is not early
        early.end()
        other.end()
    with start_early():
        unused = own_cluster._early_clusters[0]
        others = take_cluster(1)  # a cluster with its own number of CPUs is another one
        assert others is not unused
        others.end()
    assert unused._process.returncode is not None and not own_cluster._early_clusters


def test_an_early_cluster_ends_if_a_check_refuses_the_run(program: None) -> None:
    clusters: list[OwnCluster] = []
    before = dict(os.environ)
    with pytest.raises(PreflightError), start_early():
        clusters += own_cluster._early_clusters
        assert dict(os.environ) == before, "RAY_ADDRESS would be a cluster to join"
        raise PreflightError("refused")
    assert clusters[0]._process.returncode is not None


def test_the_reason_of_a_failed_start_is_in_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_cluster, "PROGRAM", FAILS)
    with pytest.raises(PreflightError, match="no space left"), connect_to_ray(None):
        pass


def test_the_reason_of_a_failed_import_is_in_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('no library for Ray')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(PreflightError, match="no library for Ray"), connect_to_ray(None):
        pass


def test_the_wait_for_a_start_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_cluster, "PROGRAM", STARTS)
    monkeypatch.setattr(own_cluster, "START_S", 0.0)
    with pytest.raises(PreflightError, match="it was not ready after 0 s"), connect_to_ray(None):
        pass


def test_workers_on_loopback_use_a_rendezvous_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    here = torch_config("gloo", tmp_path)
    assert isinstance(here, FileRendezvous) and (here.backend, here.folder) == (
        "gloo",
        str(tmp_path),
    )
    for address in ("10.0.0.1:6379", "head.cluster:6379"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert torch_config("nccl", tmp_path) == RayRendezvous("nccl")


def test_elsewhere_workers_connect_as_with_ray() -> None:
    ours, rays = RayRendezvous("nccl"), TorchConfig(backend="nccl")
    assert _torch_config(ours) == rays
    assert isinstance(ours.train_func_context(), rays.train_func_context)
    steps = {name for name in vars(rays.backend_cls) if name.startswith("on_")}
    assert steps <= vars(ours.backend_cls).keys()
    assert ours.backend_cls.share_cuda_visible_devices == (
        rays.backend_cls.share_cuda_visible_devices
    )


@pytest.mark.parametrize("name", ["plain", "my%20runs", "a?b", "a#b", "it's"])
def test_the_rendezvous_file_is_valid_in_every_folder(tmp_path: Path, name: str) -> None:
    file = rendezvous_file(tmp_path / name)
    assert urlparse(f"file://{file}").path == str(file), "as torch reads it"
    assert rendezvous_file(tmp_path / name) != file


def test_controllers_import_no_torch() -> None:
    """Each group has a controller process; torch would cost it two seconds and 400 MiB."""
    modules = ("_file_rendezvous", "_lean_controller", "_placement_groups", "_dispatcher")
    code = "import sys, pickle\n" + "".join(
        f"import orchestrator.cluster.{module}\n" for module in modules
    )
    code += (
        "from orchestrator.cluster._file_rendezvous import FileRendezvous\n"
        "pickle.loads(pickle.dumps(FileRendezvous('gloo', '/tmp')))\n"
        "print('torch' in sys.modules, 'ray.train' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split()[-2:] == ["False", "True"]
