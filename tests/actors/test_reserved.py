"""What a run reserved is freed when its controller has died, and forgotten when it ends. Ray's table and store are stood in for."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from orchestrator.actors import reserved

GROUP = ray.PlacementGroupID.from_random()


class Store(dict[str, bytes]):
    """Ray's key value store, and its table of placement groups, which takes a while."""

    states: list[str]
    removed: list[Any]
    told: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self.states, self.removed, self.told = ["CREATED", "CREATED", "REMOVED"], [], []

    def put(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def table(self, group: Any) -> dict[str, str]:
        assert group.id == GROUP
        return {"state": self.states.pop(0)} if self.states else {}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store()
    monkeypatch.setattr(reserved, "_internal_kv_put", made.put)
    monkeypatch.setattr(reserved, "_internal_kv_get", made.get)
    monkeypatch.setattr(reserved, "_internal_kv_del", lambda key: made.pop(key, None))
    monkeypatch.setattr(reserved, "placement_group_table", made.table)
    monkeypatch.setattr(reserved, "remove_placement_group", lambda group: made.removed.append(group.id))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    dispatcher = SimpleNamespace(enlist_controller=SimpleNamespace(remote=lambda *given: made.told.append(given)))
    monkeypatch.setattr("ray.get_actor", lambda name, namespace: dispatcher)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(current_actor="the controller"))
    return made


def test_what_a_dead_controller_held_is_freed(store: Store) -> None:
    handle = SimpleNamespace(placement_group=SimpleNamespace(id=GROUP))
    group = SimpleNamespace(get_worker_group_state=lambda: SimpleNamespace(placement_group_handle=handle))
    reserved.Reserved("run-1", 3, "dispatcher").after_worker_group_start(group)
    assert store.told == [(3, "the controller")]
    reserved.free("run-2")
    assert store.removed == [] and len(store) == 1, "another run's is left alone"
    reserved.free("run-1")
    assert store.removed == [GROUP] and store.states == [], "it is waited for"
    reserved.forget("run-1")
    assert not store
    reserved.free("run-1")
    assert store.removed == [GROUP]
