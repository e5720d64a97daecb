"""Test that our own cluster stays on this machine, by the environment of `ray.init`."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import ray
from ray.train.torch import TorchConfig

from orchestrator.cluster._file_rendezvous import FileRendezvous, rendezvous_file
from orchestrator.cluster._rendezvous import torch_config
from orchestrator.cluster.connect import connect_to_ray


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the environment at the moment of `ray.init`."""
    environment: dict[str, str] = {}

    def init(**options: Any) -> None:
        environment.update(os.environ, dashboard=str(options["include_dashboard"]))

    for name in (
        "GLOO_SOCKET_IFNAME",
        "NCCL_SOCKET_IFNAME",
        "RAY_USAGE_STATS_ENABLED",
        "RAY_AUTH_MODE",
        "RAY_ADDRESS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    return environment


def test_an_own_cluster_uses_loopback_and_authentication(started: dict[str, str]) -> None:
    before = dict(os.environ)
    with connect_to_ray(None):
        pass
    assert started["RAY_ADDRESS"].startswith("127.0.0.1:") and started["dashboard"] == "False"
    assert started["GLOO_SOCKET_IFNAME"] == started["NCCL_SOCKET_IFNAME"]
    assert socket.if_nametoindex(started["GLOO_SOCKET_IFNAME"]) and started[
        "GLOO_SOCKET_IFNAME"
    ].startswith("lo")
    assert started["RAY_USAGE_STATS_ENABLED"] == "0" and "RAY_AUTH_MODE" not in started
    assert dict(os.environ) == before


def test_variables_of_the_user_are_kept(
    started: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    with connect_to_ray(None):
        pass
    assert started["NCCL_SOCKET_IFNAME"] == "eth0" and started["RAY_USAGE_STATS_ENABLED"] == "1"


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
        assert type(torch_config("nccl", tmp_path)) is TorchConfig


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
