"""Test groups whose workers hold different resources: one node, three nodes, and a restart."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import ray.train
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray.cluster_utils import Cluster

from orchestrator.cluster import groups
from orchestrator.cluster.connect import connect_to_ray, list_nodes
from orchestrator.cluster.own_cluster import OWN_CLUSTER
from orchestrator.config.plan import Groups

# tests/actors/test_heterogeneous_workers.py covers bundles and ranks without Ray
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("own_ray")]
A, B = {"CPU": 1.0}, {"CPU": 0.5}
PAIRS = Groups(1, (A, B, A, B), "")


def run_group(monkeypatch: pytest.MonkeyPatch, folder: Path, dies: bool) -> None:
    """Run one group whose workers write their rank and resources, by attempt and rank.

    With `dies`, the worker of rank 1 dies at the first attempt.
    """

    def write_report(settings: Mapping[str, Any]) -> None:
        import torch.distributed as dist

        first = dies and not (folder / "died").exists()
        rank, here = ray.train.get_context().get_world_rank(), ray.get_runtime_context()
        report = {
            "rank": dist.get_rank(),
            "world_size": dist.get_world_size(),
            "holds": here.get_assigned_resources(),
        }
        report |= {
            "local_rank": ray.train.get_context().get_local_rank(),
            "node": here.get_node_id(),
        }
        (folder / f"{'first' if first else 'last'}-{rank}.json").write_text(json.dumps(report))
        dist.barrier()
        if first and rank == 1:
            (folder / "died").touch()
            os._exit(1)
        dist.barrier()

    monkeypatch.setattr(groups, "serve", write_report)
    groups._trainer(0, PAIRS, "uneven", folder).fit()


def read_reports(folder: Path, attempt: str) -> list[dict[str, Any]]:
    """Return the notes of an attempt's workers, by rank."""
    return [
        json.loads((folder / f"{attempt}-{rank}.json").read_text()) for rank in range(PAIRS.workers)
    ]


def test_every_rank_holds_what_its_student_was_given_after_a_restart_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # exactly the sum: bundles of the mean, or of the largest, would not fit
    with connect_to_ray(None, cpus=3):
        run_group(monkeypatch, tmp_path, dies=True)
    for attempt in ("first", "last"):
        report = read_reports(tmp_path, attempt)
        assert [worker["holds"] for worker in report] == [A, B, A, B], attempt
        assert (
            [worker["rank"] for worker in report]
            == [worker["local_rank"] for worker in report]
            == [0, 1, 2, 3]
        ), attempt
        assert {worker["world_size"] for worker in report} == {4}


@pytest.fixture
def three_nodes(own_ray: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
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


def test_every_rank_holds_what_its_student_was_given_on_several_nodes(
    three_nodes: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with connect_to_ray(three_nodes) as available:
        assert available["CPU"] == 3 and [node["CPU"] for node in list_nodes()] == [1, 1, 1]
        run_group(monkeypatch, tmp_path, dies=False)
    report = read_reports(tmp_path, "last")
    assert [worker["holds"] for worker in report] == [A, B, A, B]
    # b's two share a node, to which Ray would have given consecutive ranks
    assert (
        report[1]["node"] == report[3]["node"] and len({worker["node"] for worker in report}) == 3
    )
