"""Connect the workers of a group: by a file on a loopback cluster, else as Ray does.

The driver of a sweep imports this module, so it imports no torch.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.train.backend import Backend, BackendConfig

from orchestrator.cluster._file_rendezvous import FileRendezvous, training_context
from orchestrator.cluster.own_cluster import LOOPBACK


@dataclass
class RayRendezvous(BackendConfig):
    """Ray's TorchConfig, which the controller and the workers import, and not the driver."""

    backend: str

    @property
    def backend_cls(self) -> type[Backend]:
        """Return the class that sets up the process group."""
        return _RayBackend

    @property
    def train_func_context(self) -> Any:
        """Return the function that gives the context of the training function."""
        return training_context


class _RayBackend(Backend):
    """Backend of Ray's TorchConfig."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: RayRendezvous) -> None:
        config = _torch_config(backend_config)
        config.backend_cls().on_start(worker_group, config)

    def on_training_start(self, worker_group: Any, backend_config: RayRendezvous) -> None:
        config = _torch_config(backend_config)
        config.backend_cls().on_training_start(worker_group, config)

    def on_shutdown(self, worker_group: Any, backend_config: RayRendezvous) -> None:
        config = _torch_config(backend_config)
        config.backend_cls().on_shutdown(worker_group, config)


def _torch_config(config: RayRendezvous) -> Any:
    from ray.train.torch import TorchConfig

    return TorchConfig(backend=config.backend)


def torch_config(backend: str, folder: Path) -> RayRendezvous | FileRendezvous:
    """Return the configuration that connects the workers of a group; Ray is connected.

    Args:
        backend: Backend of torch.distributed.
        folder: Folder of the rendezvous file, which is used where Ray is on loopback.
    """
    if os.environ["RAY_ADDRESS"].rpartition(":")[0] != LOOPBACK:
        return RayRendezvous(backend)
    return FileRendezvous(backend=backend, folder=str(folder))
