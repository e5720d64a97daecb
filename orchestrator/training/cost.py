"""Measure the cost of a trial: seconds and CPU seconds of all processes that train it.

The cost starts with the first epoch of the trial. Time between the last report and the death of a
process is not counted, as it was never reported. CPU seconds of child processes, which decode the
images of a folder, are not counted either.
"""

import time
from collections.abc import Mapping

import torch

from orchestrator.core.context import TrialContext

TOTAL, CPU_TOTAL, GPU_TOTAL = "seconds/total", "seconds/cpu_total", "seconds/gpu_total"


class TrialCost:
    """The cost since creation; a resume adds the cost that was reported before."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.cpu_start = time.process_time()
        self.previous: dict[str, float] = {}
        self.other_cpu_s = 0.0

    def resume(self, metrics: Mapping[str, float]) -> None:
        """Continue from a record of an earlier process; records of older versions have no cost."""
        self.previous = {
            name: metrics[name] for name in (TOTAL, CPU_TOTAL, GPU_TOTAL) if name in metrics
        }

    def add_cpu_seconds(self, cpu_seconds: float) -> None:
        """Add CPU seconds of another process."""
        self.other_cpu_s += cpu_seconds

    def metrics(self, context: TrialContext) -> dict[str, float]:
        """Return the total cost in seconds, the same on every rank.

        Returns:
            `seconds/total`, wall time summed over all processes, and `seconds/cpu_total`. If a
            process has a GPU, or a part of one, also `seconds/gpu_total`: the wall time of such
            processes.
        """
        wall = time.perf_counter() - self.start
        cpu = time.process_time() - self.cpu_start + self.other_cpu_s
        local = [wall, cpu, wall if context.device.type == "cuda" else 0.0]
        totals = context.all_reduce_sum(
            torch.tensor(local, dtype=torch.float64, device=context.device)
        ).tolist()
        seconds = dict(zip((TOTAL, CPU_TOTAL, GPU_TOTAL), totals, strict=True))
        return {
            name: self.previous.get(name, 0.0) + value
            for name, value in seconds.items()
            if value or name != GPU_TOTAL
        }
