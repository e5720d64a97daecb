"""Lose a node of a three-node cluster during a sweep, add one, and kill the driver."""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray.cluster_utils import Cluster

from orchestrator.cluster.connect import OWN_CLUSTER
from orchestrator.store.records import Sweep
from tests.faults.broken import check_all, epochs, reached, resumed, start_sweep
from tests.faults.conftest import WHOLE, AddRow

pytestmark = pytest.mark.faults
NODES = 3


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Run three nodes of one CPU each, on loopback with Ray's token; the first is the head."""
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    with patch.dict(os.environ, OWN_CLUSTER):
        # as `ray start` does; joining nodes send the token
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        made = Cluster()
        try:
            for _ in range(NODES):
                made.add_node(num_cpus=1)
            yield made
        finally:
            made.shutdown()


def settings(cluster: Cluster) -> tuple[str, ...]:
    """Return settings with one group per node."""
    return (*WHOLE, f"resources.address={cluster.address}", f"resources.groups={NODES}")


def test_a_node_goes_and_another_comes(
    cluster: Cluster, whole: Sweep, tmp_path: Path, add_row: AddRow
) -> None:
    store = tmp_path / "store"
    with start_sweep(store, *settings(cluster)) as life:
        life.until(reached(store, 8), "epoch 8")
        cluster.remove_node(
            random.Random(0).choice(sorted(cluster.worker_nodes, key=id)), allow_graceful=False
        )
        at = epochs(store)
        life.until(reached(store, at + 8), "epochs on what is left")
        cluster.add_node(num_cpus=1)
        assert life.ended() == 0, life.output
    check_all(store, whole)
    add_row("a node of three removed, another added", "once each, in one sweep", len(whole.trials))


def test_the_driver_dies_on_a_cluster_that_lives_on(
    cluster: Cluster, whole: Sweep, tmp_path: Path, add_row: AddRow
) -> None:
    """Leftovers on the cluster's nodes are no descendants; they must not hold resources."""
    store = tmp_path / "store"
    with start_sweep(store, *settings(cluster)) as life:
        life.until(reached(store, 20), "epoch 20")
        life.kill()
    with resumed(store) as life:
        assert life.ended() == 0, life.output
    check_all(store, whole)
    add_row(
        "SIGKILL of the driver on a running cluster, then `--resume`", "once", len(whole.trials)
    )
