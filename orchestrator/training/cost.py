"""What a trial has cost since its first epoch: seconds and CPU seconds of all processes that train it. Knows clocks alone.

What a process did between its last report and its death is not counted: nobody was told. Nor are the CPU seconds of its children,
the processes that decode the pictures of a folder.
"""

import time
from collections.abc import Mapping

import torch

from orchestrator.core.context import TrialContext

TOTAL, CPU_TOTAL, GPU_TOTAL = "seconds/total", "seconds/cpu_total", "seconds/gpu_total"


class TrialCost:
    """Counts from its making on; a resume goes on from what was told before."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.cpu_start = time.process_time()
        self.before: dict[str, float] = {}
        self.beside = 0.0

    def resume(self, metrics: Mapping[str, float]) -> None:
        """Go on from a record of an earlier process; one of an older version says nothing."""
        self.before = {name: metrics[name] for name in (TOTAL, CPU_TOTAL, GPU_TOTAL) if name in metrics}

    def add(self, cpu_seconds: float) -> None:
        """Count CPU seconds of a process beside this one."""
        self.beside += cpu_seconds

    def metrics(self, context: TrialContext) -> dict[str, float]:
        """`seconds/total`, wall seconds of all processes together, and `seconds/cpu_total`; the same on every rank.

        Where a process has a GPU, or a part of one, also `seconds/gpu_total`: the wall seconds of those that have.
        """
        wall, cpu = time.perf_counter() - self.start, time.process_time() - self.cpu_start + self.beside
        own = [wall, cpu, wall if context.device.type == "cuda" else 0.0]
        totals = context.total(torch.tensor(own, dtype=torch.float64, device=context.device)).tolist()
        found = dict(zip((TOTAL, CPU_TOTAL, GPU_TOTAL), totals, strict=True))
        return {name: self.before.get(name, 0.0) + value for name, value in found.items() if value or name != GPU_TOTAL}
