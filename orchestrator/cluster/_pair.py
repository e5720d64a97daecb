"""Exchange logits among the workers of a group, each of which trains one student.

The logits travel by point-to-point sends. Rank r trains student r mod S, together with the other
replicas of it. With two students the even ranks train a and the odd ones b. Ranks 2i and 2i + 1 are
a pair, which sees the same share of every batch. The replicas of a student are a process group of
their own, in which DDP reduces. Lock step needs no barrier: every step needs the other students'
logits of the same batch.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.core.context import TrialContext


class Pair:
    """Exchange of one student with the others, each at another rank of the same pair."""

    def __init__(self, context: TrialContext, count: int) -> None:
        self.count = count
        position = context.rank % count
        self.local_positions: tuple[int, ...] = (position,)
        first = context.rank - position
        self.ranks = [first + other for other in range(count)]
        self.context = replace(
            context,
            rank=context.rank // count,
            world_size=context.world_size // count,
            group=_replicas(context.world_size, count)[position],
        )
        self.nccl = dist.get_backend() == "nccl"
        self.sent: list[tuple[dist.Work, Tensor]] = []
        self.received: dict[int, Tensor] = {}
        self.arriving: list[dist.Work] = []
        self.seconds = 0.0

    def publish(self, position: int, logits: Tensor, in_turn: bool) -> None:
        """Send logits and start to receive those of the other students.

        Args:
            position: Position of the student.
            logits: Logits of the batch, (B, K).
            in_turn: Send to earlier students only. Later ones receive the logits after this
                student's step, by `republish`.
        """
        logits = self._outgoing(logits)
        others = [other for other in range(self.count) if other != position]
        sends = [other for other in others if not in_turn or other < position]
        buffers = {other: torch.empty_like(logits) for other in others}
        ops = [dist.P2POp(dist.isend, logits, self.ranks[other]) for other in sends]
        ops += [
            dist.P2POp(dist.irecv, buffer, self.ranks[other]) for other, buffer in buffers.items()
        ]
        works = self._start(ops)
        self.sent += [(work, logits) for work in works[: len(sends)]]
        self.received, self.arriving = buffers, works[len(sends) :]

    def republish(self, position: int, logits: Tensor) -> None:
        """Send the logits to the students after this one."""
        logits = self._outgoing(logits)
        works = self._start(
            [dist.P2POp(dist.isend, logits, rank) for rank in self.ranks[position + 1 :]]
        )
        self.sent += [(work, logits) for work in works]

    def receive(self, position: int) -> Callable[[], Tensor]:
        """Return a function that gives the received logits, (P, B, K).

        Its first call waits for them.
        """
        buffers = list(self.received.values())

        @functools.cache
        def arrived() -> Tensor:
            self.wait_for_receives()
            return torch.stack(buffers).to(self.context.device)

        return arrived

    def end_step(self) -> None:
        """Wait for logits that were not requested, and until all sends are complete."""
        self.wait_for_receives()
        self._wait([work for work, _ in self.sent])
        self.sent, self.received = [], {}

    def wait_for_receives(self) -> None:
        """Wait for the pending receives, once.

        A second wait for a received tensor would block in gloo without a limit.
        """
        arriving, self.arriving = self.arriving, []
        self._wait(arriving)

    def _wait(self, works: list[dist.Work]) -> None:
        start = time.perf_counter()
        for work in works:
            work.wait()
        self.seconds += time.perf_counter() - start

    def take_wait_seconds(self) -> float:
        """Return the seconds that the host waited since the last call.

        They do not include the time for which NCCL makes the device wait.
        """
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def _outgoing(self, logits: Tensor) -> Tensor:
        """Return the logits to send.

        gloo sends from host memory, through which two roles that share a GPU exchange tensors.
        """
        return logits.contiguous() if self.nccl else logits.contiguous().cpu()

    def _start(self, ops: list[dist.P2POp]) -> list[dist.Work]:
        """Start all operations.

        NCCL starts them as one batch, or two ranks that send to each other would deadlock.
        """
        if not ops:
            return []
        if self.nccl:
            works = dist.batch_isend_irecv(ops)
            return works if len(works) == len(ops) else [works[0]] * len(ops)
        return [cast(dist.Work, op.op(op.tensor, op.peer)) for op in ops]


@functools.cache
def _replicas(world_size: int, count: int) -> list[dist.ProcessGroup]:
    """Return a process group per student, created once per worker process.

    All ranks call this together.
    """
    groups = [dist.new_group(list(range(position, world_size, count))) for position in range(count)]
    return cast(list[dist.ProcessGroup], groups)
