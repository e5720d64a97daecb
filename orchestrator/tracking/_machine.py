"""Measure the load of the driver's machine, as metrics under MLflow's own names.

MLflow's own monitor starts a thread that bypasses the outbox. It ends with the first failed write.
"""

import time
from pathlib import Path

import psutil

EVERY_S = 10.0
MIB = 2**20


class Machine:
    """Metrics of processors, memory and the disk of the store, at most every ten seconds."""

    def __init__(self, root: Path, steps: int = 0) -> None:
        self.root, self.steps = root, steps
        self.process = psutil.Process()
        psutil.cpu_percent()  # the first value of these two calls has no meaning
        self.process.cpu_percent()
        self.measured = time.monotonic()

    def measure(self) -> dict[str, float]:
        """Return the current metrics; none within ten seconds of the last ones.

        Processor metrics cover the time since the last measurement. `steps` counts the
        measurements.
        """
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
