"""Control the workers of a group on one machine with fewer processes than Ray Train does.

Ray Train's controller processes import this module, so it imports no torch.
"""

from typing import Any

from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup


class FixedWorkers(FixedScalingPolicy):
    """Policy of a fixed number of workers, all on the machine of the controller.

    It reserves nothing with the coordinator of Ray's autoscaler, which is a process of its own: on
    one machine there is nothing to scale.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        """Let the workers inherit the environment of their cluster.

        With a runtime environment, Ray starts Python twice for each worker, and both import Ray.
        """
        WorkerGroup._get_worker_runtime_env = staticmethod(_no_runtime_env)

    def _maybe_send_resource_request(self) -> None:
        """Do nothing: there is no coordinator to send a request to."""


def _no_runtime_env(custom_runtime_env: Any) -> dict[str, Any]:
    return {}
