"""Test the setup of a training process: torch's threads, and an allocator that keeps memory."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from orchestrator.cluster import connect, own_cluster
from orchestrator.config.trial import TrialSpec
from orchestrator.core.allocator import ALLOCATOR, allocator
from orchestrator.core.context import TrialContext
from orchestrator.core.proxies import direct_loopback
from orchestrator.core.reports import EpochRecord
from orchestrator.training._precompute import precompute_view
from orchestrator.training._trainer import train

SMALL = (
    "data.limit.train=128",
    "data.limit.validation=20",
    "data.limit.test=20",
    "data.augmentation=none",
    "training.epochs=1",
    "student.name=mlp",
    "student.width=4",
)
TRIM, MMAP = ALLOCATOR

Specify = Callable[..., TrialSpec]
MakeTeacher = Callable[..., Path]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Restore the number of threads after a test."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("role", ["student", "fill"])
def test_each_trial_uses_its_configured_number_of_threads(
    specify: Specify, make_teacher: MakeTeacher, role: str
) -> None:
    found: list[int] = []

    def record_threads(record: Any) -> None:
        if isinstance(record, EpochRecord):
            found.append(torch.get_num_threads())

    for number, threads in enumerate(
        ("resources.threads_per_worker=3", "resources.threads_per_worker=2", "seed=0")
    ):
        spec = specify(*SMALL, threads, folder=f"trial-{number}")
        spec = spec.model_copy(
            update={"teacher": make_teacher(spec.data, width=8), "role": role, "views": (None,)}
        )
        (precompute_view if role == "fill" else train)(spec, TrialContext(report=record_threads))
    assert found == [3, 2, 1], "each trial of a process sets its own number; the default is 1"


def test_allocator_settings_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRIM, raising=False)
    monkeypatch.delenv(MMAP, raising=False)
    assert allocator() == ALLOCATOR
    monkeypatch.setenv(TRIM, "4096")
    assert allocator() == {TRIM: "4096", MMAP: ALLOCATOR[MMAP]}
    monkeypatch.setenv(MMAP, "")
    assert allocator() == {TRIM: "4096", MMAP: ""}


def test_ray_starts_with_the_allocator_and_restores_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TRIM, "4096")
    monkeypatch.delenv(MMAP, raising=False)
    seen: list[dict[str, str]] = []

    class Cluster:
        """A cluster of our own that starts no process."""

        address, environment = "127.0.0.1:0", own_cluster.common_environment()

        def wait(self) -> None:
            """Do nothing."""

        def end(self) -> None:
            """Do nothing."""

    monkeypatch.setattr(connect, "take_cluster", lambda cpus: Cluster())
    monkeypatch.setattr(ray, "init", lambda **options: seen.append(dict(os.environ)))
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    before = dict(os.environ)
    with connect.connect_to_ray(None) as available:
        assert available == {"CPU": 2.0}
    assert {name: seen[0].get(name) for name in ALLOCATOR} == {TRIM: "4096", MMAP: ALLOCATOR[MMAP]}
    assert dict(os.environ) == before and MMAP not in before


def test_workers_of_a_running_cluster_use_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their processes start from the node's environment and not from ours."""
    monkeypatch.setenv(TRIM, "4096")
    monkeypatch.delenv(MMAP, raising=False)
    monkeypatch.setenv("RAY_ADDRESS", "kept")  # restored after `_join_cluster` sets it
    init_options: dict[str, Any] = {}

    def init(**options: Any) -> SimpleNamespace:
        init_options.update(options)
        return SimpleNamespace(
            address_info={"gcs_address": "10.0.0.1:6379"}, dashboard_url="10.0.0.1:8265"
        )

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeManagerAddress": "10.0.0.2"}])
    with direct_loopback():
        connect._join_cluster("10.0.0.1:6379")
        assert os.environ["no_proxy"].split(",")[-2:] == ["10.0.0.1", "10.0.0.2"]
    given = init_options["runtime_env"]["env_vars"]
    assert {name: given[name] for name in ALLOCATOR} == {TRIM: "4096", MMAP: ALLOCATOR[MMAP]}
