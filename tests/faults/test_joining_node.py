"""Test a sweep on a cluster while one node leaves and one joins: trials go on, nothing is left."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import ray
from ray._private import ray_constants, state
from ray._private.authentication.authentication_token_setup import (
    maybe_enable_token_auth_if_token_available,
)
from ray.cluster_utils import Cluster

from orchestrator.cluster.connect import connect_to_ray, free_nodes
from orchestrator.cluster.own_cluster import OWN_CLUSTER
from orchestrator.config.loader import load
from orchestrator.config.trial import apply
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep.driver import run_sweep
from orchestrator.sweep.preflight.preflight import prepare_run
from tests.sweep_runs import SMALL, Watch

pytestmark = [pytest.mark.ray, pytest.mark.faults]
RAYS_OWN = {"_AutoscalingCoordinatorActor"}  # one in each cluster; it holds nothing
GONE_S = 60.0


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Run a head of one CPU and a node of one, on loopback with Ray's token."""
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3")
    with patch.dict(os.environ, OWN_CLUSTER):
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        made = Cluster()
        try:
            made.add_node(num_cpus=1)
            made.add_node(num_cpus=1)
            yield made
        finally:
            made.shutdown()


@dataclass
class Changing(Watch):
    """A watch that removes a node while two trials run, and adds one after the note.

    It interrupts the sweep after the lost trial is complete.
    """

    cluster: Any = None
    seen: set[int] = field(default_factory=set)
    step: int = 0
    lost: int | None = None

    def trial_reported(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        self.seen |= {trial.number} if epoch > 1 else set()
        if self.step == 0 and len(self.seen - {number for number, _ in self.ended}) == 2:
            self.step = 1
            self.cluster.remove_node(next(iter(self.cluster.worker_nodes)))
        elif self.step == 1 and any(note.endswith(": 1 worker group now") for note in self.notes):
            self.step = 2
            self.cluster.add_node(num_cpus=1)
        self.goal()

    def trial_ended(self, trial: Trial) -> None:
        super().trial_ended(trial)
        self.goal()

    def goal(self) -> None:
        found = [
            re.match(
                r"trial-0*(\d+) continues from its checkpoint: its worker group was lost", note
            )
            for note in self.notes
        ]
        self.lost = next((int(match[1]) for match in found if match), None)
        if (
            (self.lost, "complete") in self.ended
            and "a node joined: 2 worker groups now" in self.notes
            and self.step < 3
        ):
            self.step = 3
            raise KeyboardInterrupt


def left_behind() -> list[str]:
    """Return actors and placement groups that still hold resources of the connected cluster."""
    actors = {
        str(actor["ActorClassName"]) for actor in state.actors(actor_state_name="ALIVE").values()
    } - RAYS_OWN
    groups = [
        group["state"]
        for group in ray.util.placement_group_table().values()
        if group["state"] != "REMOVED"
    ]
    held = [] if sum(node.get("CPU", 0) for node in free_nodes()) == 2 else ["CPUs"]
    return sorted(actors) + groups + held


def test_a_node_leaves_and_another_one_joins(cluster: Cluster, tmp_path: Path) -> None:
    store, watch = Store.open(tmp_path / "store"), Changing(cluster=cluster)
    changes = (
        "method.name=kd",
        "student.name=cnn",
        "training.epochs=20",
        "search.scheduler=none",
        "search.trials=40",
    )
    configuration = load(
        None, [*SMALL, *changes, f"resources.address={cluster.address}", "search.sampler=random"]
    )
    prepared = prepare_run(store, configuration, "sweep", local_processes=0)
    run_sweep(
        Sweep.create(store.sweep("sweep"), prepared.configuration, "sweep"),
        store,
        prepared.data,
        prepared.teacher_access,
        watch,
    )
    sweep = Sweep.open(store, "sweep")
    assert sweep.state == "interrupted" and watch.step == 3, watch.notes
    assert {trial.state for trial in sweep.trials.values()} == {"complete", "waiting"}, (
        "none has failed"
    )
    shown = [note for note in watch.notes if not note.startswith(("augmentation", "normalisation"))]
    assert [note["text"] for note in sweep.notes] == shown

    with connect_to_ray(cluster.address):
        until = time.monotonic() + GONE_S
        while left_behind() and time.monotonic() < until:
            time.sleep(0.1)
        assert left_behind() == []

    assert watch.lost is not None
    trial = sweep.trials[watch.lost]
    alone = apply(prepared.configuration, trial.settings)
    again = Sweep.create(store.sweep("alone"), alone, "train")
    run_sweep(again, store, prepared.data, prepared.teacher_access, Watch(), local_processes=1)
    assert again.trials[0].history == trial.history and len(trial.history) == 20, (
        "as if nothing had happened"
    )
