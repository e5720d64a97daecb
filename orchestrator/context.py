"""What a training knows of where it runs: rank, device, whom to report to. The same loop runs with Ray and without."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

Record = dict[str, Any]


def _ignore(_: Record) -> None:
    """A report that nobody reads."""


@dataclass(frozen=True)
class TrialContext:
    """One of `world_size` processes that train a trial together; only rank 0 reports and is asked to stop."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Callable[[Record], None] = _ignore
    asked_to_stop: Callable[[], bool] = lambda: False
    alive: Callable[[], None] = lambda: None

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, value: Any = None) -> Any:
        """The value of rank 0, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0, device=self.device)
        return box[0]

    def total(self, values: Tensor) -> Tensor:
        """The sum over the ranks, on every rank."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order, on every rank."""
        if self.world_size == 1:
            return [value]
        boxes: list[Any] = [None] * self.world_size
        dist.all_gather_object(boxes, value)
        return boxes

    def align_buffers(self, module: nn.Module) -> None:
        """Give every rank the buffers of rank 0: running statistics drift apart within an epoch."""
        if self.world_size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def should_stop(self) -> bool:
        """Whether somebody asked for the end of this trial; the same answer on every rank."""
        return bool(self.share(self.asked_to_stop() if self.leads else None))
