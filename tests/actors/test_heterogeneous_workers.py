"""Test ranks and devices of workers with different resources, and the refusal of an unknown Ray."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ray.train.v2._internal.execution.context import DistributedContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup

from orchestrator.cluster import _worker as worker
from orchestrator.cluster import groups
from orchestrator.cluster._heterogeneous_workers import sort_by_rank
from orchestrator.config.plan import Groups
from orchestrator.core.errors import PreflightError
from tests.refusal import refused

A, B = {"CPU": 1.0}, {"CPU": 0.5}
PAIRS = Groups(1, (A, B, A, B), "")


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
    assert not groups._callbacks(Groups(1, (A, A), "")), "equal workers need no callback"


def test_a_ray_that_has_another_signature_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerGroup, "_create_workers", lambda self, number: [])
    with refused("ray", "WorkerGroup._create_workers", error=PreflightError):
        groups._callbacks(PAIRS)


@pytest.mark.parametrize(("ids", "device"), [([], "cpu"), (["3"], "meta")])
def test_a_worker_without_a_gpu_does_not_use_the_gpu_of_another(
    ids: list[str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train shows a node's GPUs to all its workers, and offers the first to the others."""
    monkeypatch.setattr("ray.get_gpu_ids", lambda: ids)
    monkeypatch.setattr("ray.train.torch.get_device", lambda: torch.device("meta"))
    assert worker._device() == torch.device(device)
