"""What a trial has cost since its first epoch: seconds and CPU seconds of all processes that train it. Knows clocks alone.

What a process did between its last report and its death is not counted: nobody was told.
"""

import time
from collections.abc import Mapping

import torch

from orchestrator.context import TrialContext

TOTAL, CPU_TOTAL = "seconds/total", "seconds/cpu_total"


class Spent:
    """Counts from its making on; a resume goes on from what was told before."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.cpu_start = time.process_time()
        self.before, self.cpu_before = 0.0, 0.0
        self.beside = 0.0

    def resume(self, metrics: Mapping[str, float]) -> None:
        """Go on from a record of an earlier process; one of an older version says nothing."""
        self.before, self.cpu_before = metrics.get(TOTAL, 0.0), metrics.get(CPU_TOTAL, 0.0)

    def add(self, cpu_seconds: float) -> None:
        """Count CPU seconds of a process beside this one."""
        self.beside += cpu_seconds

    def metrics(self, context: TrialContext) -> dict[str, float]:
        """`seconds/total`, wall seconds times processes, and `seconds/cpu_total`; the same on every rank."""
        own = [time.perf_counter() - self.start, time.process_time() - self.cpu_start + self.beside]
        total, cpu = context.total(torch.tensor(own, dtype=torch.float64, device=context.device)).tolist()
        return {TOTAL: self.before + total, CPU_TOTAL: self.cpu_before + cpu}
