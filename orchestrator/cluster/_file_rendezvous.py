"""Connect the workers of a group on one machine through a file, without an open port.

torch's own rendezvous is a TCPStore. It listens on every network of the machine and requires no
password. Ray Train's controllers import this module, so it imports no torch: that would cost each
controller two seconds.
"""

import contextlib
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

LEAVE_S = 30.0  # as in Ray's TorchConfig


def rendezvous_file(folder: Path) -> Path:
    """Return a new rendezvous file for one start of a group, in `folder`.

    torch reads the file's address up to a ? or # and decodes nothing in it. A folder with either
    character is replaced by the temporary folder.
    """
    if set("?#") & set(str(folder)):
        folder = Path(tempfile.gettempdir())  # on this machine, like all workers
    return folder / f"rendezvous-{uuid.uuid4().hex}"


@dataclass
class FileRendezvous(BackendConfig):
    """Counterpart of Ray's TorchConfig whose workers connect through a file of `folder`.

    The file is new at every start of the group.
    """

    backend: str
    folder: str
    timeout_s: int = 1800

    @property
    def backend_cls(self) -> type[Backend]:
        """Return the class that sets up the process group."""
        return _FileBackend

    @property
    def train_func_context(self) -> Any:
        """Return the function that gives the context of the training function."""
        return training_context


def training_context() -> Any:
    """Return the context in which Ray runs the training function of a TorchConfig."""
    from ray.train.torch.config import TorchConfigContextManager

    return TorchConfigContextManager()


class _FileBackend(Backend):
    share_cuda_visible_devices = True
    file: Path | None = None

    def on_start(self, worker_group: Any, backend_config: FileRendezvous) -> None:
        """Set up the process group as Ray does for `env://`, without an address."""
        self.file = rendezvous_file(Path(backend_config.folder))
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _join_process_group,
                    backend=backend_config.backend,
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method=f"file://{self.file}",
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: FileRendezvous) -> None:
        """Shut down the process group and remove its file."""
        ended = worker_group.execute_async(_leave_process_group, len(worker_group) > 1)
        try:
            with contextlib.suppress(ray.exceptions.GetTimeoutError):
                ray.get(ended, timeout=LEAVE_S)
        finally:
            if self.file:
                with contextlib.suppress(OSError):
                    self.file.unlink(missing_ok=True)


def _join_process_group(**settings: Any) -> None:
    """Join the process group in a worker, as Ray does."""
    from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group

    _set_torch_distributed_env_vars()
    _setup_torch_process_group(**settings)


def _leave_process_group(destroy: bool) -> None:
    """Leave the process group in a worker, as Ray does."""
    from ray.train.torch.config import _shutdown_torch

    _shutdown_torch(destroy_process_group=destroy)
