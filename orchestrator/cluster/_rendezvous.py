"""Connect the workers of a group: by a file on a loopback cluster, else as Ray does."""

import os
from pathlib import Path

from ray.train.torch import TorchConfig

from orchestrator.cluster._file_rendezvous import FileRendezvous
from orchestrator.cluster.own_cluster import LOOPBACK


def torch_config(backend: str, folder: Path) -> TorchConfig | FileRendezvous:
    """Return the configuration that connects the workers of a group; Ray is connected.

    Args:
        backend: Backend of torch.distributed.
        folder: Folder of the rendezvous file, which is used where Ray is on loopback.
    """
    if os.environ["RAY_ADDRESS"].rpartition(":")[0] != LOOPBACK:
        return TorchConfig(backend=backend)
    return FileRendezvous(backend=backend, folder=str(folder))
