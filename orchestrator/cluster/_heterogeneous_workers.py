"""Create Ray Train worker groups whose workers hold different resources.

Ray's ScalingConfig has one `resources_per_worker` for all workers. Its source says "TODO: support
heterogeneous workers and placement". WorkerGroup reserves one placement group and starts an actor
in each of its bundles. Both steps are overridden here, bundle by bundle; all else is Ray's. This
module is imported only where workers differ. `require_hooks` refuses a Ray with other steps.
"""

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import (
    DefaultPlacementGroupHandle,
)
from ray.util.placement_group import placement_group as reserve

from orchestrator.core.errors import PreflightError

Bundles = tuple[dict[str, float], ...]

HOOKS = (
    (TrainController, "worker_group_cls", ()),
    (ControllerCallback, "after_controller_start", ("train_run_context",)),
    (WorkerGroup, "_create_placement_group", ("scaling_config", "worker_group_context")),
    (
        WorkerGroup,
        "_create_workers",
        (
            "num_workers",
            "placement_group",
            "resources_per_worker",
            "placement_group_bundle_indices",
        ),
    ),
)


def require_hooks() -> None:
    """Check that the installed Ray has the steps that this module overrides.

    Ray would ignore an override of a missing step silently.

    Raises:
        PreflightError: A step is missing or lacks a parameter.
    """
    for owner, name, parameters in HOOKS:
        step = getattr(owner, name, None)
        if step is None or (
            parameters and not set(parameters) <= set(inspect.signature(step).parameters)
        ):
            raise PreflightError(f"{owner.__name__}.{name} differs from Ray 2.60").with_details(
                "ray", f"{owner.__name__}.{name}", "Ray 2.60"
            )


class HeterogeneousWorkerGroup(WorkerGroup):
    """Worker group whose rank r holds `bundles[r]`, on any node and GPU that Ray chose.

    This holds after a restart too.
    """

    bundles: Bundles = ()

    def _create_placement_group(
        self, scaling_config: Any, worker_group_context: Any
    ) -> DefaultPlacementGroupHandle:
        return DefaultPlacementGroupHandle(
            reserve(list(self.bundles), strategy=worker_group_context.placement_strategy)
        )

    def _create_workers(
        self,
        num_workers: int,
        placement_group: Any,
        resources_per_worker: dict[str, float],
        **arguments: Any,
    ) -> list[Any]:
        """Return the workers by rank; start those with the same resources together."""
        assert num_workers == len(self.bundles)
        workers: list[Any] = []
        for bundle in (
            bundle
            for index, bundle in enumerate(self.bundles)
            if bundle not in self.bundles[:index]
        ):
            indices = [
                index for index, other_bundle in enumerate(self.bundles) if other_bundle == bundle
            ]
            options = arguments | {"placement_group_bundle_indices": indices}
            workers += super()._create_workers(len(indices), placement_group, bundle, **options)
        return sort_by_rank(workers)


def sort_by_rank(workers: Sequence[Any]) -> list[Any]:
    """Return the workers by the index of their bundle, which becomes their rank.

    Ray ranks workers node by node and by GPU, for code that takes the GPU of its local rank. Our
    code takes the GPU that Ray assigned. Local ranks count the workers of a node in the order of
    the ranks.
    """
    ordered = sorted(workers, key=lambda worker: int(worker.placement_group_bundle_index))
    nodes = list(dict.fromkeys(worker.metadata.node_ip for worker in ordered))
    next_local_rank = dict.fromkeys(nodes, 0)
    workers_per_node = {
        node: sum(worker.metadata.node_ip == node for worker in ordered) for node in nodes
    }
    for rank, worker in enumerate(ordered):
        node = worker.metadata.node_ip
        worker.distributed_context = replace(
            worker.distributed_context,
            world_rank=rank,
            world_size=len(ordered),
            local_rank=next_local_rank[node],
            local_world_size=workers_per_node[node],
            node_rank=nodes.index(node),
        )
        next_local_rank[node] += 1
    return ordered


class HeterogeneousWorkers(ControllerCallback):
    """Callback that makes a group's controller create its workers from these bundles.

    The controller is a separate process.
    """

    def __init__(self, bundles: Bundles) -> None:
        self.bundles = bundles

    def after_controller_start(self, train_run_context: Any) -> None:
        HeterogeneousWorkerGroup.bundles = self.bundles
        TrainController.worker_group_cls = HeterogeneousWorkerGroup
