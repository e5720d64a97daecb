"""Where the workers of a group find each other. Knows Ray Train's and torch's rendezvous, and nothing of what is trained.

torch's own meeting place is a TCPStore, which listens on every network of the machine and asks nobody for a password. Workers of a
cluster on loopback are on one machine, so a file does: nobody listens. On several nodes it stays as Ray has it.
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
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend

from orchestrator.cluster.connect import LOOPBACK


def torch_config(backend: str, folder: Path) -> TorchConfig:
    """How the workers of a group are connected by `backend`: by a file in `folder` where Ray is on loopback; it is connected."""
    if os.environ["RAY_ADDRESS"].rpartition(":")[0] != LOOPBACK:
        return TorchConfig(backend=backend)
    return FileRendezvous(backend=backend, folder=str(folder))


def meeting_file(folder: Path) -> Path:
    """Return a new file for one start of a group, in `folder`; torch reads its address up to a ? or # and decodes nothing in it."""
    if set("?#") & set(str(folder)):
        folder = Path(tempfile.gettempdir())  # of this machine, as all workers are
    return folder / f"rendezvous-{uuid.uuid4().hex}"


@dataclass
class FileRendezvous(TorchConfig):
    """A TorchConfig whose workers meet in a file of `folder`, a new one at every start of the group."""

    folder: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """Who sets the process group up."""
        return _ByFileBackend


class _ByFileBackend(_TorchBackend):
    file: Path | None = None

    def on_start(self, worker_group: Any, backend_config: FileRendezvous) -> None:
        """As Ray does it for `env://`, without an address."""
        self.file = meeting_file(Path(backend_config.folder))
        worker_group.execute(_set_torch_distributed_env_vars)
        workers = range(len(worker_group))
        settings = {"backend": backend_config.backend, "world_size": len(workers), "timeout_s": backend_config.timeout_s}
        settings["init_method"] = f"file://{self.file}"
        ray.get(
            [worker_group.execute_single_async(rank, _setup_torch_process_group, world_rank=rank, **settings) for rank in workers]
        )

    def on_shutdown(self, worker_group: Any, backend_config: FileRendezvous) -> None:
        """The file goes with the group."""
        try:
            super().on_shutdown(worker_group, backend_config)
        finally:
            if self.file:
                with contextlib.suppress(OSError):
                    self.file.unlink(missing_ok=True)
