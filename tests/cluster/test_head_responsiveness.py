"""Test the reachability of a cluster's head: a stopped one accepts connections only."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from orchestrator.cluster import connect


@pytest.mark.parametrize(
    ("reachable", "replies", "responsive"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_a_head_is_responsive_only_if_it_answers_a_request(
    reachable: bool, replies: bool, responsive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(key: bytes, namespace: Any, timeout: float) -> None:
        assert timeout <= 5.0
        if not replies:
            raise ray.exceptions.RpcError("Deadline Exceeded")

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(connect, "accepts_connections", lambda address: reachable)
    monkeypatch.setattr(
        "ray._private.worker.global_worker",
        SimpleNamespace(gcs_client=SimpleNamespace(internal_kv_get=get)),
    )
    assert connect.is_head_responsive() is responsive
