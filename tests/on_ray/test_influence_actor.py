"""Test the influence actor: results, deaths, late results, errors, and its end with its worker."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from ray import cloudpickle

from methods import SettingsError
from orchestrator.cluster import _influence_actor as influence_actor
from orchestrator.cluster import _worker as worker
from orchestrator.cluster import groups
from orchestrator.cluster._influence_actor import InfluenceActorHandle, InfluenceClient
from orchestrator.cluster.dispatcher_client import DispatcherClient
from orchestrator.config.loader import load
from orchestrator.config.plan import Groups
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import TrialError
from orchestrator.core.reports import EpochRecord
from orchestrator.training.sample_weighting import SampleWeighting, Snapshot
from tests.on_ray.shared import SharedRay
from tests.refusal import refused

pytestmark = pytest.mark.ray
LONG_S = 60.0


def compute(
    snapshot: Snapshot, device: torch.device, heartbeat: Callable[[], None]
) -> SampleWeighting:
    """Replace the computation of weights by the action that the snapshot specifies."""
    order, folder = snapshot.spec.name, snapshot.spec.folder
    if order == "die" or (order == "die once" and not (folder / "died").exists()):
        (folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "stale once" and not (folder / "stale").exists():
        (folder / "stale").touch()
        raise OSError(errno.ESTALE, "Stale file handle")
    while order == "wait":
        heartbeat()
    if order == "refuse":
        raise SettingsError(
            "damping = 0 is not allowed: give more", "damping", value=0, allowed=(0, None)
        )
    if order == "break":
        raise ValueError("two words\nand a line")
    view: dict[str, float] = {
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "cpu": device.type == "cpu",
    }
    return SampleWeighting(
        snapshot.weights * 2, -snapshot.weights, {"epoch": snapshot.epoch}, view, {}
    )


def snapshot(epoch: int = 3, order: str = "", folder: Path | None = None) -> Snapshot:
    weights = torch.tensor([0.5, 1.5])
    return Snapshot(
        TrialSpec(name=order, configuration=Configuration(), folder=folder or Path(), data=Path()),
        "a",
        epoch,
        {"weight": torch.ones(2)},
        weights,
    )


@pytest.fixture(scope="module")
def ray_here(shared_ray: SharedRay) -> Iterator[None]:
    """Connect to the shared Ray instance; its processes get this file's functions by value."""
    shared_ray.connect()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def handle(ray_here: None) -> InfluenceActorHandle:
    """Return a handle of an influence actor with two CPUs."""
    return InfluenceActorHandle(2.0, 0.0, compute)


@pytest.fixture
def client(handle: InfluenceActorHandle) -> Iterator[InfluenceClient]:
    made = InfluenceClient(handle, max_failures=2)
    yield made
    made.drop()


def answered(
    client: InfluenceClient, heartbeat: Callable[[], None] = lambda: None
) -> SampleWeighting:
    found = client.receive(LONG_S, heartbeat)
    assert found is not None
    return found


def test_result_of_the_last_snapshot_is_returned_once(client: InfluenceClient) -> None:
    assert client.receive(LONG_S, lambda: None) is None, "no snapshot was sent"
    client.send(snapshot(1, "wait"))
    client.send(snapshot(2))
    signs: list[None] = []
    found = answered(client, lambda: signs.append(None))
    assert (
        found.noted["epoch"] == 2
        and found.weights.tolist() == [1.0, 3.0]
        and found.scores.tolist() == [-0.5, -1.5]
    )
    assert (
        signs
        and found.tracked["threads"] == 2
        and found.tracked["cpu"]
        and found.tracked["pid"] != os.getpid()
    )
    assert client.receive(LONG_S, lambda: None) is None and client.notes() == []


def test_killed_actor_is_restarted_and_the_snapshot_sent_again(
    client: InfluenceClient, tmp_path: Path
) -> None:
    client.send(snapshot(1))
    before = answered(client).tracked["pid"]
    client.send(snapshot(3, "die once", tmp_path))
    after = answered(client)
    assert (
        after.noted["epoch"] == 3
        and after.weights.tolist() == [1.0, 3.0]
        and after.tracked["pid"] != before
    )
    assert client.notes() == [
        "the influence actor died and was restarted; the snapshot of epoch 3 was resent"
    ]
    assert client.notes() == []


def test_file_system_error_counts_as_a_death_of_the_actor(
    client: InfluenceClient, tmp_path: Path
) -> None:
    client.send(snapshot(3, "stale once", tmp_path))
    assert answered(client).noted["epoch"] == 3
    assert client.notes() == [
        "the influence actor died and was restarted; the snapshot of epoch 3 was resent"
    ]


def test_idle_actor_that_died_is_restarted_for_the_next_snapshot(client: InfluenceClient) -> None:
    client.send(snapshot(1))
    process = psutil.Process(int(answered(client).tracked["pid"]))
    process.kill()
    process.wait(LONG_S)
    client.send(snapshot(2))
    assert answered(client).tracked["pid"] != process.pid and len(client.notes()) == 1


def test_snapshot_that_kills_every_actor_is_abandoned(
    handle: InfluenceActorHandle, tmp_path: Path
) -> None:
    client = InfluenceClient(handle, max_failures=1)
    client.send(snapshot(4, "die", tmp_path))
    assert client.receive(LONG_S, lambda: None) is None
    again, given_up = client.notes()
    assert "snapshot of epoch 4 was resent" in again
    assert given_up == (
        "the influence actor died 2 times (resources.max_failures = 1): the snapshot of epoch "
        "4 was not resent"
    )
    client.send(snapshot(5))
    assert answered(client).noted["epoch"] == 5


def test_late_result_is_none_and_the_next_snapshot_gets_a_new_actor(
    client: InfluenceClient,
) -> None:
    """A suspended process does not react to a message."""
    client.send(snapshot(0))
    process = psutil.Process(int(answered(client).tracked["pid"]))
    process.suspend()
    client.send(snapshot(1))
    assert client.receive(0.0, lambda: None) is None
    assert client.receive(0.0, lambda: None) is None and client.notes() == []
    client.send(snapshot(2))
    found = answered(client)
    assert found.noted["epoch"] == 2 and found.tracked["pid"] != process.pid
    process.wait(LONG_S)


def test_students_that_share_an_actor_get_their_own_results(
    handle: InfluenceActorHandle, tmp_path: Path
) -> None:
    first, second = InfluenceClient(handle, 2), InfluenceClient(handle, 2)
    first.send(snapshot(1, "die once", tmp_path))
    second.send(snapshot(2))
    found = [answered(first), answered(second)]
    assert [each.noted["epoch"] for each in found] == [1, 2] and found[0].tracked["pid"] == found[
        1
    ].tracked["pid"]


def test_actor_that_ray_cannot_place_is_late(ray_here: None) -> None:
    client = InfluenceClient(InfluenceActorHandle(64.0, 0.0, compute), max_failures=2)
    client.send(snapshot())
    assert client.receive(0.0, lambda: None) is None and client.notes() == []
    client.drop()


def test_error_of_the_computation_fails_the_trial(client: InfluenceClient) -> None:
    client.send(snapshot())
    pid = answered(client).tracked["pid"]
    client.send(snapshot(order="refuse"))
    with refused("damping", 0, (0, None), TrialError):
        client.receive(LONG_S, lambda: None)
    client.send(snapshot())
    assert answered(client).tracked["pid"] == pid, "a refused snapshot must not restart the actor"
    client.send(snapshot(order="break"))
    with refused(
        "resources.influence_backend", "ValueError: two words and a line", error=TrialError
    ):
        client.receive(LONG_S, lambda: None)
    client.send(snapshot())
    assert answered(client).tracked["pid"] != pid, "an unexpected error restarts the actor"
    assert client.notes() == []


def serve(settings: dict[str, Any]) -> None:
    """Serve trials that request weights once, send another snapshot, and report process ids.

    The trial `busy` waits for the second result.
    """

    def work(spec: TrialSpec, context: TrialContext) -> None:
        assert context.influence_client is not None
        client = context.influence_client()
        client.send(snapshot())
        found = client.receive(LONG_S, context.heartbeat)
        client.send(snapshot(4, "wait"))  # the end of the trial cancels it
        context.report(
            EpochRecord(1, {"actor": found.tracked["pid"], "worker": os.getpid()}, done=True)
        )
        if spec.name == "busy":
            client.receive(LONG_S, context.heartbeat)

    worker.execute = work  # type: ignore[attr-defined]
    setattr(influence_actor, "compute_sample_weights", compute)  # noqa: B010
    worker.serve(settings)


def submit_and_read(
    dispatcher_client: DispatcherClient, name: str, spec: TrialSpec
) -> dict[str, psutil.Process]:
    """Return the processes that a trial reports."""
    dispatcher_client.submit(spec.model_copy(update={"name": name}))
    record = dispatcher_client.next_report(name, LONG_S)
    assert isinstance(record, EpochRecord), record
    return {who: psutil.Process(int(pid)) for who, pid in record.metrics.items()}


# the tests above kill the actor, and training in test_sweeps.py (kd_aif) has one in its worker;
# `make faults` kills workers
@pytest.mark.slow
def test_actor_lives_as_long_as_its_worker(
    ray_here: None, handle: InfluenceActorHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The CPU of the actor is not part of the worker's bundle."""
    spec = TrialSpec(name="one", configuration=load(None, []), folder=tmp_path, data=tmp_path)
    monkeypatch.setattr(groups, "serve", serve)
    with groups.worker_groups(
        Groups(1, ({"CPU": 1.0},), ""), tmp_path / "groups", 1, own_cluster=True
    ) as dispatcher_client:
        first, second = (
            submit_and_read(dispatcher_client, "one", spec),
            submit_and_read(dispatcher_client, "busy", spec),
        )
        assert first == second and first["actor"] != first["worker"]
        second["worker"].kill()
        second["actor"].wait(LONG_S)
        third = submit_and_read(dispatcher_client, "last", spec)
        assert third["actor"] != first["actor"] and third["worker"] != first["worker"]
    third["actor"].wait(LONG_S)
