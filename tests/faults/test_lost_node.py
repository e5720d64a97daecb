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

from orchestrator.cluster.own_cluster import OWN_CLUSTER
from orchestrator.store.records import Sweep
from tests.faults.broken import check_all, epochs, has_epochs, resume_sweep, start_sweep
from tests.faults.conftest import UNDISTURBED_SETTINGS, AddRow

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
    return (
        *UNDISTURBED_SETTINGS,
        f"resources.address={cluster.address}",
        f"resources.groups={NODES}",
    )


def test_node_is_replaced_by_another(
    cluster: Cluster, undisturbed: Sweep, tmp_path: Path, add_row: AddRow
) -> None:
    store = tmp_path / "store"
    with start_sweep(store, *settings(cluster)) as driver:
        driver.wait_for(has_epochs(store, 8), "epoch 8")
        cluster.remove_node(
            random.Random(0).choice(sorted(cluster.worker_nodes, key=id)), allow_graceful=False
        )
        at = epochs(store)
        driver.wait_for(has_epochs(store, at + 8), "epochs on what is left")
        cluster.add_node(num_cpus=1)
        assert driver.wait_until_ended() == 0, driver.output
    check_all(store, undisturbed)
    add_row(
        "a node of three removed, another added", "once each, in one sweep", len(undisturbed.trials)
    )


def test_killed_driver_resumes_on_the_same_cluster(
    cluster: Cluster, undisturbed: Sweep, tmp_path: Path, add_row: AddRow
) -> None:
    """Leftovers on the cluster's nodes are no descendants; they must not hold resources."""
    store = tmp_path / "store"
    with start_sweep(store, *settings(cluster)) as driver:
        driver.wait_for(has_epochs(store, 20), "epoch 20")
        driver.kill()
    with resume_sweep(store) as driver:
        assert driver.wait_until_ended() == 0, driver.output
    check_all(store, undisturbed)
    add_row(
        "SIGKILL of the driver on a running cluster, then `--resume`",
        "once",
        len(undisturbed.trials),
    )
