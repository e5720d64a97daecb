"""How busy the driver's machine is, as metrics under MLflow's own names. Measures when it is asked, and knows no run.

MLflow's monitor would start a thread that writes past the outbox, and ends with the first write that fails.
"""

import time
from pathlib import Path

import psutil

EVERY_S = 10.0
MIB = 2**20


class Machine:
    """Measures at most every ten seconds: what the processors did since the last time, memory, the disk of the store."""

    def __init__(self, root: Path, steps: int = 0) -> None:
        self.root, self.steps = root, steps
        self.process = psutil.Process()
        psutil.cpu_percent()  # the first answer of these two is about nothing
        self.process.cpu_percent()
        self.measured = time.monotonic()

    def measure(self) -> dict[str, float]:
        """The metrics of now; none before ten seconds went by since the last ones. `steps` counts those that there were."""
        if time.monotonic() - self.measured < EVERY_S:
            return {}
        self.measured, self.steps = time.monotonic(), self.steps + 1
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self.root))
        return {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/system_memory_usage_megabytes": memory.used / MIB,
            "system/system_memory_usage_percentage": memory.percent,
            "system/disk_usage_percentage": disk.percent,
            "system/disk_available_megabytes": disk.free / MIB,
            "system/driver_cpu_percentage": self.process.cpu_percent(),
            "system/driver_memory_megabytes": self.process.memory_info().rss / MIB,
        }
