"""Keep the number of workers of a group on one machine; controllers import this, so no torch."""

from typing import Any

from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy


class FixedWorkers(FixedScalingPolicy):
    """Policy of a fixed number of workers that reserves nothing with Ray's autoscaler.

    The coordinator of the autoscaler is a process. On one machine there is nothing to scale.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        """Do nothing: there is no coordinator to register with."""

    def _maybe_send_resource_request(self) -> None:
        """Do nothing: there is no coordinator to send a request to."""
