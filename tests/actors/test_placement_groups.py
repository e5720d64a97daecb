"""Test the removal of placement groups after their controller's death, with stubs of Ray."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from orchestrator.cluster import _controllers as controllers
from orchestrator.cluster import _placement_groups as placement_groups

GROUP = ray.PlacementGroupID.from_random()
CONTROLLER = ray.ActorID.from_random()


class Store(dict[str, bytes]):
    """Stub of Ray's key value store and its table of placement groups, which is delayed."""

    states: list[str]
    removed: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self.states, self.removed = ["CREATED", "CREATED", "REMOVED"], []

    def put(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def table(self, group: Any) -> dict[str, str]:
        assert group.id == GROUP
        return {"state": self.states.pop(0)} if self.states else {}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    monkeypatch.setattr(placement_groups, "_internal_kv_put", made.put)
    monkeypatch.setattr(placement_groups, "_internal_kv_get", made.get)
    monkeypatch.setattr(placement_groups, "_internal_kv_del", lambda key: made.pop(key, None))
    monkeypatch.setattr(placement_groups, "placement_group_table", made.table)
    monkeypatch.setattr(
        placement_groups, "remove_placement_group", lambda group: made.removed.append(group.id)
    )
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for name, function in {
        "put": made.put,
        "get": made.get,
        "del": lambda key: made.pop(key, None),
    }.items():
        monkeypatch.setattr(controllers, f"_internal_kv_{name}", function)
    monkeypatch.setattr(
        "ray.get_runtime_context", lambda: SimpleNamespace(get_actor_id=lambda: CONTROLLER.hex())
    )
    return made


def test_the_placement_group_of_a_dead_controller_is_removed(store: Store) -> None:
    handle = SimpleNamespace(placement_group=SimpleNamespace(id=GROUP))
    group = SimpleNamespace(
        get_worker_group_state=lambda: SimpleNamespace(placement_group_handle=handle)
    )
    placement_groups.PlacementGroupCallback("run-1").after_worker_group_start(group)
    placement_groups.remove_run_placement_group("run-2")
    assert store.removed == [] and len(store) == 2, "the group of another run is kept"
    placement_groups.remove_run_placement_group("run-1")
    assert store.removed == [GROUP] and store.states == [], "removal is awaited"
    placement_groups.forget_run("run-1")
    assert not store
    placement_groups.remove_run_placement_group("run-1")
    assert store.removed == [GROUP]


def test_nothing_is_removed_after_ray_has_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_client(key: str) -> bytes:
        called.append(key)
        raise AttributeError("'NoneType' object has no attribute 'internal_kv_get'")

    called: list[str] = []
    for name in ("_internal_kv_get", "_internal_kv_del"):
        monkeypatch.setattr(placement_groups, name, no_client)
        monkeypatch.setattr(controllers, name, no_client)
    monkeypatch.setattr(
        placement_groups, "remove_placement_group", lambda group: pytest.fail("Ray has shut down")
    )
    placement_groups.remove_run_placement_group("run-1")
    placement_groups.forget_run("run-1")
    assert called and all("run-1" in key for key in called)


@pytest.mark.parametrize(
    ("answers", "answer_s", "killed"), [(True, 1.0, False), (False, 1.0, True), (True, 0.0, True)]
)
def test_a_controller_is_ended_unless_it_answers(
    answers: bool, answer_s: float, killed: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    controllers.record_controller("run-1")
    handle = SimpleNamespace(__ray_ready__=SimpleNamespace(remote=lambda: "reference"))
    core = SimpleNamespace(get_actor_handle=lambda actor: {CONTROLLER: handle}[actor])
    ended: list[Any] = []
    monkeypatch.setattr("ray._private.worker.global_worker", SimpleNamespace(core_worker=core))
    monkeypatch.setattr(
        "ray.wait", lambda references, timeout: (references, []) if answers else ([], references)
    )
    monkeypatch.setattr("ray.kill", lambda actor, no_restart: ended.append(actor))
    controllers.end_controller("run-2", answer_s)
    assert not ended, "a run without started workers has no record"
    controllers.end_controller("run-1", answer_s)
    assert ended == [handle] * killed
    placement_groups.forget_run("run-1")
    controllers.end_controller("run-1")
    assert len(ended) == killed
