"""Which placement group a run of Ray Train has, kept where its driver finds it: who frees it when the controller has died?

Ray removes it only with the whole job then. Knows runs by their names; nothing of what they train.
"""

import contextlib
import time
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from orchestrator.cluster._controllers import forget_controller, note_controller

GONE_S = 10.0
LOST = (ray.exceptions.RayError, AttributeError)  # AttributeError: Ray has shut down, and its client is None
KEY = "distillation-reserved/"


class PlacementGroupCallback(WorkerGroupCallback):
    """Notes the placement group and the controller of a run whenever its workers have started; lives in the controller."""

    def __init__(self, run: str) -> None:
        self.run = run

    def after_worker_group_start(self, worker_group: Any) -> None:
        """The workers hold it now."""
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        _internal_kv_put(KEY + self.run, group.id.hex())
        note_controller(self.run)


def remove_placement_group_of(run: str) -> None:
    """Remove what the run reserved, and with it the workers; returns when they are gone or after `GONE_S`."""
    with contextlib.suppress(*LOST):
        noted = _internal_kv_get(KEY + run)
        if not noted:
            return
        group = PlacementGroup(ray.PlacementGroupID.from_hex(noted.decode()))
        remove_placement_group(group)
        until = time.monotonic() + GONE_S
        while placement_group_table(group).get("state", "REMOVED") != "REMOVED" and time.monotonic() < until:
            time.sleep(0.2)


def forget_run(run: str) -> None:
    """The run is over."""
    with contextlib.suppress(*LOST):
        forget_controller(run)
        _internal_kv_del(KEY + run)
