"""A pair: the workers of a group, each with one student of the trial, that swap logits by point-to-point sends. Knows no Ray.

Rank r trains student r mod S beside the other replicas of it; with two students the even ranks train a and the odd ones b, and
ranks 2i and 2i + 1 are a pair, which sees the same share of every batch. The replicas of a student are a process group of their
own, in which DDP reduces. Lock step needs no barrier: nobody takes a step without what the others say of the same batch.
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
    """One student here, the others each at another rank of the same pair."""

    def __init__(self, context: TrialContext, count: int) -> None:
        self.count = count
        position = context.rank % count
        self.own: tuple[int, ...] = (position,)
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

    def tell(self, position: int, logits: Tensor, in_turn: bool) -> None:
        """Send it, and be ready to receive; whoever comes later in turn is sent what the student says after its step."""
        logits, others = self._outgoing(logits), [other for other in range(self.count) if other != position]
        sends = [other for other in others if not in_turn or other < position]
        boxes = {other: torch.empty_like(logits) for other in others}
        ops = [dist.P2POp(dist.isend, logits, self.ranks[other]) for other in sends]
        ops += [dist.P2POp(dist.irecv, box, self.ranks[other]) for other, box in boxes.items()]
        works = self._start(ops)
        self.sent += [(work, logits) for work in works[: len(sends)]]
        self.received, self.arriving = boxes, works[len(sends) :]

    def tell_anew(self, position: int, logits: Tensor) -> None:
        """Send it to those after this student."""
        logits = self._outgoing(logits)
        works = self._start([dist.P2POp(dist.isend, logits, rank) for rank in self.ranks[position + 1 :]])
        self.sent += [(work, logits) for work in works]

    def others(self, position: int) -> Callable[[], Tensor]:
        """What was received; the first call waits."""
        boxes = list(self.received.values())

        @functools.cache
        def arrived() -> Tensor:
            self._arrive()
            return torch.stack(boxes).to(self.context.device)

        return arrived

    def end_step(self) -> None:
        """Wait for what nobody asked for, and until what was sent may be forgotten."""
        self._arrive()
        self._wait([work for work, _ in self.sent])
        self.sent, self.received = [], {}

    def _arrive(self) -> None:
        """Once: gloo waits for ever for what has arrived already."""
        arriving, self.arriving = self.arriving, []
        self._wait(arriving)

    def _wait(self, works: list[dist.Work]) -> None:
        start = time.perf_counter()
        for work in works:
            work.wait()
        self.seconds += time.perf_counter() - start

    def waited(self) -> float:
        """Of the host: what NCCL makes the device wait is not seen here."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def _outgoing(self, logits: Tensor) -> Tensor:
        """gloo sends from the host's memory: two roles that share a GPU meet there."""
        return logits.contiguous() if self.nccl else logits.contiguous().cpu()

    def _start(self, ops: list[dist.P2POp]) -> list[dist.Work]:
        """Begin all of them; NCCL begins them as one, or two that send to each other would wait for ever."""
        if not ops:
            return []
        if self.nccl:
            works = dist.batch_isend_irecv(ops)
            return works if len(works) == len(ops) else [works[0]] * len(ops)
        return [cast(dist.Work, op.op(op.tensor, op.peer)) for op in ops]


@functools.cache
def _replicas(world_size: int, count: int) -> list[dist.ProcessGroup]:
    """A process group per student, made once in the life of a worker; all ranks call this together."""
    made = [dist.new_group(list(range(position, world_size, count))) for position in range(count)]
    return cast(list[dist.ProcessGroup], made)
