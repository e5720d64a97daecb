"""One Ray instance with warm worker groups, which several tests use."""

import contextlib
from pathlib import Path

from orchestrator.cluster.connect import connect_to_ray
from orchestrator.cluster.dispatcher_client import DispatcherClient
from orchestrator.cluster.groups import worker_groups
from orchestrator.config.plan import Groups

CPUS = 16  # more than the groups need: tests start groups and actors of their own
GROUPS = {1: 2, 2: 1}  # groups by their number of workers


class SharedRay:
    """Ray instance and worker groups that start at their first use."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stack = folder, contextlib.ExitStack()
        self.clients: dict[int, DispatcherClient] = {}
        self.connected = False

    def connect(self) -> None:
        """Start Ray unless it runs."""
        if not self.connected:
            self.stack.enter_context(connect_to_ray(None, cpus=CPUS))
            self.connected = True

    def groups(self, workers: int) -> DispatcherClient:
        """Return a client of the groups that have this number of workers."""
        self.connect()
        if workers not in self.clients:
            plan = Groups(GROUPS[workers], ({"CPU": 1.0},) * workers, "")
            groups = worker_groups(plan, self.folder / str(workers), 2, own_cluster=True)
            self.clients[workers] = self.stack.enter_context(groups)
        return self.clients[workers]

    def close(self) -> None:
        """End the groups and Ray."""
        self.clients, self.connected = {}, False
        self.stack.close()
