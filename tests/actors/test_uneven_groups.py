"""Test groups whose workers hold different resources, on one node and several, and at a restart."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import ray.train
import torch
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray.cluster_utils import Cluster
from ray.train.v2._internal.execution.context import DistributedContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup

from orchestrator.cluster import _worker as worker
from orchestrator.cluster import groups
from orchestrator.cluster._heterogeneous_workers import sort_by_rank
from orchestrator.cluster.connect import OWN_CLUSTER, connect_to_ray, nodes
from orchestrator.config.plan import Groups
from orchestrator.core.errors import PreflightError
from tests.refusal import refused

A, B = {"CPU": 1.0}, {"CPU": 0.5}
PAIRS = Groups(1, (A, B, A, B), "")


def run_group(monkeypatch: pytest.MonkeyPatch, folder: Path, dies: bool) -> None:
    """Run one group whose workers write their rank and resources, by attempt and rank.

    With `dies`, the worker of rank 1 dies at the first attempt.
    """

    def tell(settings: Mapping[str, Any]) -> None:
        import torch.distributed as dist

        first = dies and not (folder / "died").exists()
        rank, here = ray.train.get_context().get_world_rank(), ray.get_runtime_context()
        said = {
            "rank": dist.get_rank(),
            "world_size": dist.get_world_size(),
            "holds": here.get_assigned_resources(),
        }
        said |= {"local_rank": ray.train.get_context().get_local_rank(), "node": here.get_node_id()}
        (folder / f"{'first' if first else 'last'}-{rank}.json").write_text(json.dumps(said))
        dist.barrier()
        if first and rank == 1:
            (folder / "died").touch()
            os._exit(1)
        dist.barrier()

    monkeypatch.setattr(groups, "serve", tell)
    groups._trainer(0, PAIRS, "uneven", folder).fit()


def told(folder: Path, attempt: str) -> list[dict[str, Any]]:
    """Return the notes of an attempt's workers, by rank."""
    return [
        json.loads((folder / f"{attempt}-{rank}.json").read_text()) for rank in range(PAIRS.workers)
    ]


@pytest.mark.ray
def test_every_rank_holds_what_its_student_was_given_after_a_restart_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # exactly the sum: bundles of the mean, or of the largest, would not fit
    with connect_to_ray(None, cpus=3):
        run_group(monkeypatch, tmp_path, dies=True)
    for attempt in ("first", "last"):
        said = told(tmp_path, attempt)
        assert [worker["holds"] for worker in said] == [A, B, A, B], attempt
        assert (
            [worker["rank"] for worker in said]
            == [worker["local_rank"] for worker in said]
            == [0, 1, 2, 3]
        ), attempt
        assert {worker["world_size"] for worker in said} == {4}


@pytest.fixture
def three_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the address of a cluster of three nodes of one CPU each, on loopback."""
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    with patch.dict(os.environ, OWN_CLUSTER):
        # as `ray start` does; joining nodes send the token
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        cluster = Cluster()
        try:
            for _ in range(3):
                cluster.add_node(num_cpus=1)
            yield cluster.address
        finally:
            cluster.shutdown()


@pytest.mark.ray
def test_every_rank_holds_what_its_student_was_given_on_several_nodes(
    three_nodes: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with connect_to_ray(three_nodes) as available:
        assert available["CPU"] == 3 and [node["CPU"] for node in nodes()] == [1, 1, 1]
        run_group(monkeypatch, tmp_path, dies=False)
    said = told(tmp_path, "last")
    assert [worker["holds"] for worker in said] == [A, B, A, B]
    # b's two share a node, to which Ray would have given consecutive ranks
    assert said[1]["node"] == said[3]["node"] and len({worker["node"] for worker in said}) == 3


def test_ranks_follow_the_bundles_and_local_ranks_the_nodes() -> None:
    """On two nodes a's workers have the second GPU, and b's the first; Ray's own order differs."""
    nodes_of = ["n1", "n2", "n2", "n1"]
    workers = [
        SimpleNamespace(
            placement_group_bundle_index=index,
            metadata=SimpleNamespace(
                node_id=node, node_ip=node, accelerator_ids={"GPU": [str(1 - index % 2)]}
            ),
            distributed_context=DistributedContext(
                world_rank=0, world_size=2, local_rank=0, local_world_size=2, node_rank=0
            ),
        )
        for index, node in enumerate(nodes_of)
    ]
    assert WorkerGroup._sort_workers_by_gpu_id_grouped_by_node(workers) != workers
    placed = [
        worker.distributed_context
        for worker in sort_by_rank([workers[index] for index in (2, 0, 3, 1)])
    ]
    assert placed == [worker.distributed_context for worker in workers]
    assert [place.world_rank for place in placed] == [0, 1, 2, 3]
    assert [(place.node_rank, place.local_rank) for place in placed] == [
        (0, 0),
        (1, 0),
        (1, 1),
        (0, 1),
    ]
    assert {(place.world_size, place.local_world_size) for place in placed} == {(4, 2)}


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (WorkerGroup, "_create_workers"),
        (WorkerGroup, "_create_placement_group"),
        (TrainController, "worker_group_cls"),
    ],
)
def test_a_ray_with_other_steps_is_refused(
    owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(groups._callbacks(PAIRS)) == 1
    monkeypatch.delattr(owner, name)
    refusal = refused(
        "ray", f"{owner.__name__}.{name}", "the Ray of constraints.txt", PreflightError
    )
    with refusal, groups.worker_groups(PAIRS, Path("none"), 0, own_cluster=True):
        pass
    assert not groups._callbacks(Groups(1, (A, A), "")), "equal workers need none of it"


def test_a_ray_that_has_another_signature_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerGroup, "_create_workers", lambda self, number: [])
    with refused("ray", "WorkerGroup._create_workers", error=PreflightError):
        groups._callbacks(PAIRS)


@pytest.mark.parametrize(("ids", "device"), [([], "cpu"), (["3"], "meta")])
def test_a_worker_without_a_gpu_does_not_take_that_of_another(
    ids: list[str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train shows a node's GPUs to all its workers, and gives the first to those without."""
    monkeypatch.setattr("ray.get_gpu_ids", lambda: ids)
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("meta"))
    assert worker._device() == torch.device(device)
