"""What a training knows of where it runs: rank, device, whom to report to. The same loop runs with Ray and without."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.core.errors import PreflightError

Record = dict[str, Any]
T = TypeVar("T")


class Stopped(Exception):
    """Somebody asked for the end of the trial; raised on all ranks."""


def _unsaid(_: str) -> None:
    """A sentence that nobody hears."""


class Aide(Protocol):
    """Somebody beside the trainer who computes one thing at a time while training goes on."""

    def send(self, job: Any) -> None:
        """Begin with this; what was sent before is not wanted any more."""

    def receive(self, wait_s: float, alive: Callable[[], None]) -> Any:
        """What came of the last job, None where it is not there within `wait_s`; `alive` is called while waiting."""

    def drop(self) -> None:
        """Nobody wants what comes of the last job."""

    def notes(self) -> list[str]:
        """What a person should hear since the last call."""


def _ignore(_: Record) -> None:
    """A report that nobody reads."""


@dataclass(frozen=True)
class TrialContext:
    """One of `world_size` processes that train a trial together; only rank 0 reports and is asked to stop.

    `group` is who they are where that is not everybody: the processes that train one of several students. `pair` says how so many
    students, each in processes of its own, hear one another. `aide` finds somebody who computes beside this process, if any.
    `note` tells the person who looks after the run; `phase` says what this process does from now on, should nothing be heard of it.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Callable[[Record], None] = _ignore
    asked_to_stop: Callable[[], bool] = lambda: False
    alive: Callable[[], None] = lambda: None
    note: Callable[[str], None] = _unsaid
    phase: Callable[[str], None] = _unsaid
    group: dist.ProcessGroup | None = None
    pair: "Callable[[TrialContext, int], Exchange] | None" = None
    aide: Callable[[], Aide] | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, value: Any = None, source: int = 0) -> Any:
        """The value of one rank, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, group=self.group, group_src=source, device=self.device)
        return box[0]

    def total(self, values: Tensor) -> Tensor:
        """The sum over the ranks, on every rank."""
        if self.world_size > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks, on every rank."""
        return self.total(values.clone()) / self.world_size if self.world_size > 1 else values

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order, on every rank."""
        if self.world_size == 1:
            return [value]
        boxes: list[Any] = [None] * self.world_size
        dist.all_gather_object(boxes, value, group=self.group)
        return boxes

    def together(self, action: Callable[[], T]) -> T:
        """What the action gives on this rank; an PreflightError of any rank is raised on all of them."""
        value, failure = None, None
        try:
            value = action()
        except PreflightError as error:
            failure = error
        failures = [error for error in self.gather(failure) if error]
        if failures:
            raise PreflightError.from_error(failures[0], str(failures[0]))
        return cast(T, value)

    def gather_tensors(self, value: Tensor) -> list[Tensor]:
        """The tensors of all ranks, of one shape and type, in their order, on every rank."""
        if self.world_size == 1:
            return [value]
        values = [torch.empty_like(value) for _ in range(self.world_size)]
        dist.all_gather(values, value.contiguous(), group=self.group)
        return values

    def hand_out(self, value: Tensor, source: int = 0) -> Tensor:
        """The tensor of one rank, on every rank, in the place of the one of the same shape and type that each of them gives."""
        if self.world_size > 1:
            dist.broadcast(value, group=self.group, group_src=source)
        return value

    def align_buffers(self, module: nn.Module) -> None:
        """Give every rank the buffers of rank 0: running statistics drift apart within an epoch."""
        for buffer in module.buffers():
            self.hand_out(buffer)

    def require_going_on(self) -> None:
        """Stopped, on every rank, when somebody asked for the end of this trial."""
        if self.should_stop():
            raise Stopped

    def should_stop(self) -> bool:
        """Whether somebody asked for the end of this trial; the same answer on every rank."""
        return bool(self.share(self.asked_to_stop() if self.leads else None))


class Exchange(Protocol):
    """What a training knows of the students: which are its own, by position, and what the others say."""

    count: int
    own: tuple[int, ...]
    context: TrialContext

    def tell(self, position: int, logits: Tensor, in_turn: bool) -> None:
        """The student says `logits` (B, K) of the batch; `in_turn`: those after it will hear what it says after its step."""

    def tell_anew(self, position: int, logits: Tensor) -> None:
        """What the student says after its step, for those after it."""

    def others(self, position: int) -> Callable[[], Tensor]:
        """What the other students say, (P, B, K), in their order: waits for it when it is called, and only then."""

    def end_step(self) -> None:
        """Nothing of this step is on its way any more."""

    def waited(self) -> float:
        """Seconds that this process waited for others since the last call."""
