"""Connect the workers of a group: by a file on a loopback cluster, else as Ray does.

torch's own rendezvous is a TCPStore. It listens on every network of the machine and requires no
password. Workers of a cluster on loopback are on one machine, so a file suffices and no port is
open. On several nodes Ray's own rendezvous stays.
"""

import contextlib
import os
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)

from orchestrator.cluster.own_cluster import LOOPBACK


def torch_config(backend: str, folder: Path) -> TorchConfig:
    """Return the configuration that connects the workers of a group; Ray is connected.

    Args:
        backend: Backend of torch.distributed.
        folder: Folder of the rendezvous file, which is used where Ray is on loopback.
    """
    if os.environ["RAY_ADDRESS"].rpartition(":")[0] != LOOPBACK:
        return TorchConfig(backend=backend)
    return FileRendezvous(backend=backend, folder=str(folder))


def rendezvous_file(folder: Path) -> Path:
    """Return a new rendezvous file for one start of a group, in `folder`.

    torch reads the file's address up to a ? or # and decodes nothing in it. A folder with either
    character is replaced by the temporary folder.
    """
    if set("?#") & set(str(folder)):
        folder = Path(tempfile.gettempdir())  # on this machine, like all workers
    return folder / f"rendezvous-{uuid.uuid4().hex}"


@dataclass
class FileRendezvous(TorchConfig):
    """TorchConfig whose workers connect through a file of `folder`.

    The file is new at every start of the group.
    """

    folder: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Return the class that sets up the process group."""
        return _FileBackend


class _FileBackend(_TorchBackend):
    file: Path | None = None

    def on_start(self, worker_group: Any, backend_config: FileRendezvous) -> None:
        """Set up the process group as Ray does for `env://`, without an address."""
        self.file = rendezvous_file(Path(backend_config.folder))
        worker_group.execute(_set_torch_distributed_env_vars)
        workers = range(len(worker_group))
        settings = {
            "backend": backend_config.backend,
            "world_size": len(workers),
            "timeout_s": backend_config.timeout_s,
        }
        settings["init_method"] = f"file://{self.file}"
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _setup_torch_process_group, world_rank=rank, **settings
                )
                for rank in workers
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: FileRendezvous) -> None:
        """Shut down the process group and remove its file."""
        try:
            super().on_shutdown(worker_group, backend_config)
        finally:
            if self.file:
                with contextlib.suppress(OSError):
                    self.file.unlink(missing_ok=True)
