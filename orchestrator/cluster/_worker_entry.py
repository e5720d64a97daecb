"""Enter a worker: its modules import torch, which the driver that sends the function does not."""

from typing import Any


def serve(settings: dict[str, Any]) -> None:
    """Run the loop of a worker with the settings of `_worker.serve`."""
    from orchestrator.cluster import _worker

    _worker.serve(settings)
