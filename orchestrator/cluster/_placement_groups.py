"""Record the placement group of each Ray Train run, so that its driver can remove it.

If a controller has died, Ray itself removes the placement group only with the whole job.
"""

import contextlib
import time
from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

from orchestrator.cluster._controllers import forget_controller, record_controller

REMOVAL_TIMEOUT_S = 10.0
# AttributeError: Ray has shut down, and its client is None
CONNECTION_ERRORS = (ray.exceptions.RayError, AttributeError)
KEY = "distillation-reserved/"


class PlacementGroupCallback(WorkerGroupCallback):
    """Callback in the controller that records the run's placement group and controller.

    It records them whenever the workers of the run have started.
    """

    def __init__(self, run: str) -> None:
        self.run = run

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Record the placement group, which the workers hold from now on."""
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        _internal_kv_put(KEY + self.run, group.id.hex())
        record_controller(self.run)


def remove_run_placement_group(run: str) -> None:
    """Remove the placement group of a run, and with it the workers.

    Return when they are gone, or after `REMOVAL_TIMEOUT_S`.
    """
    with contextlib.suppress(*CONNECTION_ERRORS):
        group_id = _internal_kv_get(KEY + run)
        if not group_id:
            return
        group = PlacementGroup(ray.PlacementGroupID.from_hex(group_id.decode()))
        remove_placement_group(group)
        deadline = time.monotonic() + REMOVAL_TIMEOUT_S
        while (
            placement_group_table(group).get("state", "REMOVED") != "REMOVED"
            and time.monotonic() < deadline
        ):
            time.sleep(0.2)


def forget_run(run: str) -> None:
    """Delete the records of a finished run."""
    with contextlib.suppress(*CONNECTION_ERRORS):
        forget_controller(run)
        _internal_kv_del(KEY + run)
