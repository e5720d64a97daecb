"""Maintain the bank of a student during training, and exchange banks with its peers.

`BankSchedule` defines when a bank is due, and its source.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from methods import Knowledge, Output
from methods.bank_schedule import BankSchedule
from methods.retrieval import Neighbours, nearest
from orchestrator.core.context import TrialContext
from orchestrator.data.batches import Batches
from orchestrator.data.memory import to_device
from orchestrator.training._distillation_module import DistillationModule
from orchestrator.training._restorable import find_misfit
from orchestrator.training.checkpoint import State

STOP_CHECK_BLOCKS = 16  # a stopped trial leaves a pass within this many blocks
ROWS = 1 << 16  # entries per transfer between the replicas
AVERAGE = "average/"


class StudentBank:
    """The bank of one student: an entry for each training sample, or averaged weights that give it.

    The ranks of the student's replicas call `end_epoch`, `filled` and the `find` of its `knowledge`
    together. They then have bit-identical results.
    """

    def __init__(
        self,
        bank_schedule: BankSchedule,
        learner: DistillationModule,
        batches: Batches,
        context: TrialContext,
    ) -> None:
        self.bank_schedule, self.learner, self.batches, self.context = (
            bank_schedule,
            learner,
            batches,
            context,
        )
        samples, device = len(batches.dataset.train), context.device
        self.labels = torch.as_tensor(batches.dataset.train.labels).to(device)
        self.average: State = self._weights() if bank_schedule.fill == "ema" else {}
        self.entries: Output | None = None
        self.seen = torch.zeros(samples, dtype=torch.bool, device=device)
        # number of draws in this epoch, by this rank
        self.drawn = torch.zeros(samples, dtype=torch.int32, device=device)
        learner.record = self.record if bank_schedule.fill == "momentum" else None

    def _weights(self) -> State:
        return {
            name: value.detach().clone() for name, value in self.learner.student.named_parameters()
        }

    @torch.no_grad()
    def step(self) -> None:
        """Move the average towards the weights, after a training step."""
        if self.average:
            torch._foreach_lerp_(
                list(self.average.values()),
                list(self.learner.student.parameters()),
                1 - self.bank_schedule.momentum,
            )

    @torch.no_grad()
    def record(self, index: Tensor, output: Output) -> None:
        """Blend the outputs on training samples (B,) in a step into their entries.

        The first output of a sample is stored as it is.
        """
        index, said = (
            to_device(index, self.context.device),
            Output(*(each.float() for each in output)),
        )
        if self.batches.labelled:  # a sample may occur twice in a batch: its last output counts
            places = torch.arange(len(index), device=index.device)
            last = torch.where(index[:, None] == index, places, 0).amax(dim=1)
            said = Output(*(each.index_select(0, last) for each in said))
        known, stays = self.seen[index, None], self.bank_schedule.momentum
        for entries, new in zip(self._begun(said), said, strict=True):
            entries[index] = torch.where(known, stays * entries[index] + (1 - stays) * new, new)
        self.seen.index_fill_(0, index, True)
        self.drawn[index] = self.drawn[index] + 1

    def _begun(self, like: Output) -> Output:
        """Return the entries; allocate them with the widths of `like` on first use."""
        if self.entries is None:
            self.entries = Output(*(each.new_zeros(len(self.seen), each.shape[1]) for each in like))
        return self.entries

    def end_epoch(self, last: bool) -> None:
        """Merge the entries of all replicas after an epoch; discard all after the `last` one.

        A sample that several replicas drew gets the mean of their entries, weighted by the numbers
        of draws: labelled samples may recur in an epoch.
        """
        if last:
            self.average, self.entries, self.learner.record = {}, None, None
        if self.entries is not None and self.context.world_size > 1:
            total = self.context.all_reduce_sum(self.drawn.clone())
            for entries in self.entries:
                for first in range(0, len(entries), ROWS):
                    rows = slice(first, first + ROWS)
                    often = total[rows, None]
                    blended = self.context.all_reduce_sum(
                        entries[rows] * self.drawn[rows, None]
                    ) / often.clamp(min=1)
                    entries[rows] = torch.where(often > 0, blended, entries[rows])
                    self.context.heartbeat()
            self.seen |= total > 0
        self.drawn.zero_()

    def filled(self, going_on: Callable[[], None]) -> Output:
        """Return the current bank, which no later step changes.

        Args:
            going_on: Called by all ranks at intervals; raises Stopped if a stop was requested.

        Returns:
            Logits (n, K) and features (n, D).
        """
        if self.bank_schedule.fill != "momentum":
            return self._clean(going_on)
        if not self.seen.all():
            clean, missing = self._clean(going_on), ~self.seen
            for entries, fresh in zip(self._begun(clean), clean, strict=True):
                entries[missing] = fresh[missing]
            self.seen.fill_(True)
        assert self.entries is not None
        return Output(*(each.clone() for each in self.entries))

    @torch.no_grad()
    def _clean(self, going_on: Callable[[], None]) -> Output:
        """Return the outputs of the student, or of its average, on the clean training part.

        The student is in eval mode; the ranks share the pass.
        """
        training, context, tables = self.learner.training, self.context, list[Tensor]()
        self.learner.eval()
        done = 0
        for number, batch in enumerate(
            self.batches.full_blocks(None, context.rank, context.world_size), 1
        ):
            said = self.learner.speak(batch, self.average or None)
            blocks = [
                torch.cat(context.all_gather(each.float()))[: len(self.seen) - done]
                for each in said
            ]
            tables = tables or [block.new_empty(len(self.seen), block.shape[1]) for block in blocks]
            for table, block in zip(tables, blocks, strict=True):
                table[done : done + len(block)] = block
            done += len(blocks[0])
            context.heartbeat()
            if number % STOP_CHECK_BLOCKS == 0:
                going_on()
        self.learner.train(training)
        return Output(*tables)

    def knowledge(self, said: Sequence[Output], epoch: int) -> Knowledge:
        """Return the knowledge of the method after `epoch` finished epochs.

        Args:
            said: The student's own bank, or the banks of its peers, as the schedule's `source`
                requires.
            epoch: Number of finished epochs.
        """
        logits, features = said[0] if self.bank_schedule.source == "own" else join_banks(said)
        return Knowledge(
            logits, features, self.labels, self._members(epoch), broadcast_nearest(self.context)
        )

    def _members(self, epoch: int) -> Tensor | None:
        if not 0 < self.bank_schedule.queue < len(self.seen):
            return None
        members = torch.zeros(len(self.seen), dtype=torch.bool)
        members[torch.from_numpy(self.batches.drawn_last(epoch - 1, self.bank_schedule.queue))] = (
            True
        )
        return members.to(self.context.device)

    def state(self) -> State:
        """Return the tensors that a resume needs in addition to the weights."""
        if self.entries is not None:
            return {**self.entries._asdict(), "seen": self.seen}
        return {f"{AVERAGE}{name}": value for name, value in self.average.items()}

    def find_misfit(self, saved: State) -> str:
        """Return why a saved state does not fit this bank; "" if it fits."""
        if self.bank_schedule.fill == "ema":
            return (
                find_misfit(
                    "bank",
                    {f"{AVERAGE}{name}": value for name, value in self._weights().items()},
                    saved,
                )
                if saved
                else ""
            )
        if self.bank_schedule.fill != "momentum" or not saved:
            return ""
        samples = len(self.seen)
        if set(saved) != {*Output._fields, "seen"} or any(
            len(value) != samples for value in saved.values()
        ):
            return f"the bank has no entry for each of {samples} samples"
        return ""

    def restore(self, saved: State) -> None:
        """Restore a saved state; the student has the weights of the checkpoint already."""
        if self.bank_schedule.fill == "ema":
            self.average = self._weights()  # the memory layout determines the last bits
            for name, value in self.average.items():
                value.copy_(saved.get(f"{AVERAGE}{name}", value))
        if self.bank_schedule.fill == "momentum" and "seen" in saved:
            device = self.context.device
            self.entries = Output(*(saved[name].to(device, copy=True) for name in Output._fields))
            self.seen = saved["seen"].to(device, copy=True)


def join_banks(said: Sequence[Output]) -> Output:
    """Return several banks as one: mean logits (n, K), and joined features (n, sum of D).

    Unit features are concatenated, and scaled so that the inner product of two samples is the mean
    of their cosine similarities.
    """
    assert said, "who hears peers has some"
    logits = torch.stack([each.logits for each in said]).mean(dim=0)
    return Output(
        logits,
        torch.cat([functional.normalize(each.features, dim=1) for each in said], dim=1)
        / math.sqrt(len(said)),
    )


def gather_banks(own: Mapping[int, Output], context: TrialContext) -> dict[int, Output]:
    """Return the banks of all students of a trial, by position, on all ranks.

    The first rank that has a bank broadcasts it; all ranks call this together.

    Args:
        own: The banks that this rank has, by position.
        context: The context of all ranks of the trial.
    """
    if context.world_size == 1:
        return dict(own)
    shapes = context.all_gather_object(
        {position: [tuple(table.shape) for table in tables] for position, tables in own.items()}
    )
    found = {}
    for position in sorted({position for of_rank in shapes for position in of_rank}):
        source = next(rank for rank, of_rank in enumerate(shapes) if position in of_rank)
        tables = own.get(position) or [
            torch.empty(shape, device=context.device) for shape in shapes[source][position]
        ]
        found[position] = Output(*(context.broadcast_tensor(table, source) for table in tables))
        context.heartbeat()
    return found


def broadcast_nearest(context: TrialContext) -> Callable[[Knowledge, int, int], Neighbours]:
    """Return exact retrieval that distributes the queries over the ranks of `context`.

    The ranks call it together, with the same knowledge.
    """

    def find(knowledge: Knowledge, positives: int, negatives: int) -> Neighbours:
        assert knowledge.features is not None, "a bank has features"
        features, samples = knowledge.features.to(knowledge.labels.device), len(knowledge.labels)
        wanted = (knowledge.labels, positives, negatives, knowledge.members)
        if context.world_size == 1:
            return nearest(features, *wanted, heartbeat=context.heartbeat)
        each = -(-samples // context.world_size)  # padded with the last sample
        queries = (torch.arange(each, device=features.device) + context.rank * each).clamp(
            max=samples - 1
        )
        found = nearest(features, *wanted, queries=queries, heartbeat=context.heartbeat)
        together = (torch.cat(context.all_gather(table))[:samples] for table in found[:4])
        same, others, same_similarity, others_similarity = together
        return Neighbours(same, others, same_similarity, others_similarity, found.recall)

    return find
