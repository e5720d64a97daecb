"""Run Ray Train without the processes and imports that a warm worker group never uses.

It imports no torch, which the driver of a sweep does not need.
"""

import contextlib
from typing import Any

import ray
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from orchestrator.cluster._lean_controller import FixedWorkers
from orchestrator.cluster._placement_groups import CONNECTION_ERRORS


class LeanTrainer(DataParallelTrainer):
    """Base of Ray's TorchTrainer without the actors that a warm group never uses.

    Each of them is a process that delays the start by a second or two. The data set manager serves
    Ray Data, which is not used here. The cleaner removes the placement groups of a dead controller
    through the dashboard, and never ends where there is none. `PlacementGroupCallback` does its
    work here. Ray has no setting for either. If Ray renames them, both are started as before.

    Attributes:
        own_cluster: Whether the cluster is our own: one machine, whose processes have inherited
            the environment of this one.
    """

    own_cluster = False
    unused = ("DatasetsCallback", "PlacementGroupCleanerCallback")

    def _create_default_callbacks(self) -> list[Any]:
        return [
            callback
            for callback in super()._create_default_callbacks()
            if type(callback).__name__ not in self.unused
        ]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        """Run the controller; on a cluster of our own without a runtime environment.

        Ray itself gives one to the controller, for which it starts a new process instead of using
        an idle one.
        """
        if not self.own_cluster:
            return super()._initialize_and_run_controller(**arguments)
        arguments["scaling_policy"] = FixedWorkers(self.scaling_config)
        controller = ray.remote(num_cpus=0)(TrainController).remote(**arguments)
        try:
            ray.get(controller.run.remote())
            return ray.get(controller.get_result.remote())
        finally:  # at once: its own end takes seconds, for which the end of the run would wait
            if ray.is_initialized():  # else this would start a cluster
                with contextlib.suppress(*CONNECTION_ERRORS):
                    ray.kill(controller)
