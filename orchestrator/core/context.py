"""Define the process context of a training: rank, device, reporting and collectives.

The same training loop runs with Ray and without it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.core.errors import PreflightError
from orchestrator.core.reports import Report

T = TypeVar("T")


class Stopped(Exception):
    """Signal that a stop of the trial was requested; it is raised on all ranks."""


def _discard_message(_: str) -> None:
    """Discard a message."""


class InfluenceClientProtocol(Protocol):
    """Client of a process that computes one job at a time while training continues."""

    def send(self, job: Any) -> None:
        """Start a job; the result of an earlier job is discarded."""

    def receive(self, wait_s: float, heartbeat: Callable[[], None]) -> Any:
        """Return the result of the last job, or None if it is not ready within `wait_s` seconds.

        Args:
            wait_s: The longest wait in seconds.
            heartbeat: Sends a heartbeat; called during the wait.
        """

    def drop(self) -> None:
        """Discard the result of the last job."""

    def notes(self) -> list[str]:
        """Return the messages for the user since the last call."""


def _discard_report(_: Report) -> None:
    """Discard a report."""


@dataclass(frozen=True)
class TrialContext:
    """Context of one of `world_size` processes that train a trial together.

    Only rank 0 reports and receives stop requests.

    Args:
        rank: The rank of this process.
        world_size: The number of processes that train together.
        device: The device of this process.
        report: Sends a report to the driver.
        stop_requested: Returns whether a stop of the trial was requested.
        heartbeat: Sends a heartbeat.
        note: Sends a message to the user.
        phase: Sets the current phase, which is reported if the heartbeat is overdue.
        group: The process group of one of several students; None for all processes.
        pair: Builds the exchange between students that train in separate processes, given the
            context and the number of students.
        influence_client: Returns a client of the influence actor; None without an actor.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Callable[[Report], None] = _discard_report
    stop_requested: Callable[[], bool] = lambda: False
    heartbeat: Callable[[], None] = lambda: None
    note: Callable[[str], None] = _discard_message
    phase: Callable[[str], None] = _discard_message
    group: dist.ProcessGroup | None = None
    pair: "Callable[[TrialContext, int], Exchange] | None" = None
    influence_client: Callable[[], InfluenceClientProtocol] | None = None

    @property
    def is_main_process(self) -> bool:
        """Return whether this process writes files and reports."""
        return self.rank == 0

    def broadcast_object(self, value: Any = None, source: int = 0) -> Any:
        """Broadcast an object from the rank `source`; return it on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, group=self.group, group_src=source, device=self.device)
        return box[0]

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over the ranks in place; return the sum on every rank."""
        if self.world_size > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over the ranks, on every rank."""
        return (
            self.all_reduce_sum(values.clone()) / self.world_size if self.world_size > 1 else values
        )

    def all_gather_object(self, value: Any) -> list[Any]:
        """Return the values of all ranks in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        boxes: list[Any] = [None] * self.world_size
        dist.all_gather_object(boxes, value, group=self.group)
        return boxes

    def raise_on_all_ranks(self, action: Callable[[], T]) -> T:
        """Run an action on every rank and return this rank's result.

        Raises:
            PreflightError: The action raised it on any rank; it is raised on all of them.
        """
        value, failure = None, None
        try:
            value = action()
        except PreflightError as error:
            failure = error
        failures = [error for error in self.all_gather_object(failure) if error]
        if failures:
            raise PreflightError.from_error(failures[0], str(failures[0]))
        return cast(T, value)

    def all_gather(self, value: Tensor) -> list[Tensor]:
        """Return the tensors of all ranks, of one shape and dtype, in rank order, on every rank."""
        if self.world_size == 1:
            return [value]
        values = [torch.empty_like(value) for _ in range(self.world_size)]
        dist.all_gather(values, value.contiguous(), group=self.group)
        return values

    def all_gather_rows(self, value: Tensor) -> Tensor:
        """Return the rows of all ranks, equally many of each, in rank order, on every rank."""
        return torch.cat(self.all_gather(value)) if self.world_size > 1 else value

    def broadcast_tensor(self, value: Tensor, source: int = 0) -> Tensor:
        """Broadcast a tensor from the rank `source` in place; return it on every rank.

        Every rank gives a tensor of the same shape and dtype.
        """
        if self.world_size > 1:
            dist.broadcast(value, group=self.group, group_src=source)
        return value

    def align_buffers(self, module: nn.Module) -> None:
        """Broadcast the buffers of rank 0 to every rank.

        Running statistics drift apart within an epoch.
        """
        for buffer in module.buffers():
            self.broadcast_tensor(buffer)

    def raise_if_stopped(self) -> None:
        """Raise Stopped on every rank if a stop of the trial was requested."""
        if self.should_stop():
            raise Stopped

    def should_stop(self) -> bool:
        """Return whether a stop of the trial was requested; every rank returns the same."""
        return bool(self.broadcast_object(self.stop_requested() if self.is_main_process else None))


class Exchange(Protocol):
    """Exchange of logits between the students of a trial.

    `count` is the number of students. `local_positions` are the positions of the students of this
    process.
    """

    count: int
    local_positions: tuple[int, ...]
    context: TrialContext

    def publish(self, position: int, logits: Tensor, in_turn: bool) -> None:
        """Publish the logits of a student for the batch.

        Args:
            position: The position of the student.
            logits: Shape (B, K).
            in_turn: Whether later students receive the logits after this student's step instead.
        """

    def republish(self, position: int, logits: Tensor) -> None:
        """Publish the logits of a student after its step, for the students after it."""

    def receive(self, position: int) -> Callable[[], Tensor]:
        """Return a function that returns the other students' logits, (P, B, K), in their order.

        The function waits for the logits when it is called, and only then.
        """

    def end_step(self) -> None:
        """Complete all transfers of this step."""

    def take_wait_seconds(self) -> float:
        """Return the seconds that this process waited for other students since the last call."""
