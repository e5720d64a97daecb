"""Maintain the bank of a student during training, and exchange banks with its peers.

`BankPlan` defines when a bank is due, and its source.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from methods import Knowledge, Output
from methods.bank_plan import BankPlan
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

    The ranks of the student's replicas call `end_epoch`, `compute_bank` and the `find` of its
    knowledge together. They then have bit-identical results.
    """

    def __init__(
        self,
        plan: BankPlan,
        distillation_module: DistillationModule,
        batches: Batches,
        context: TrialContext,
    ) -> None:
        self.plan = plan
        self.distillation_module = distillation_module
        self.batches = batches
        self.context = context
        samples, device = len(batches.dataset.train), context.device
        self.labels = torch.as_tensor(batches.dataset.train.labels).to(device)
        self.average: State = self._copy_weights() if plan.fill == "ema" else {}
        self.entries: Output | None = None
        self.has_entry = torch.zeros(samples, dtype=torch.bool, device=device)
        # number of draws in this epoch, by this rank
        self.draw_counts = torch.zeros(samples, dtype=torch.int32, device=device)
        distillation_module.record = self.record if plan.fill == "momentum" else None

    def _copy_weights(self) -> State:
        return {
            name: value.detach().clone()
            for name, value in self.distillation_module.student.named_parameters()
        }

    @torch.no_grad()
    def step(self) -> None:
        """Move the average towards the weights, after a training step."""
        if self.average:
            torch._foreach_lerp_(
                list(self.average.values()),
                list(self.distillation_module.student.parameters()),
                1 - self.plan.momentum,
            )

    @torch.no_grad()
    def record(self, index: Tensor, output: Output) -> None:
        """Blend the outputs on training samples (B,) in a step into their entries.

        The first output of a sample is stored as it is.
        """
        index = to_device(index, self.context.device)
        outputs = Output(*(part.float() for part in output))
        if self.batches.labelled:  # a sample may occur twice in a batch: its last output counts
            positions = torch.arange(len(index), device=index.device)
            last = torch.where(index[:, None] == index, positions, 0).amax(dim=1)
            outputs = Output(*(part.index_select(0, last) for part in outputs))
        has_entry, momentum = self.has_entry[index, None], self.plan.momentum
        for entries, new in zip(self._allocate_entries(outputs), outputs, strict=True):
            entries[index] = torch.where(
                has_entry, momentum * entries[index] + (1 - momentum) * new, new
            )
        self.has_entry.index_fill_(0, index, True)
        self.draw_counts[index] = self.draw_counts[index] + 1

    def _allocate_entries(self, reference: Output) -> Output:
        """Return the entries; allocate them with the widths of `reference` on first use."""
        if self.entries is None:
            self.entries = Output(
                *(part.new_zeros(len(self.has_entry), part.shape[1]) for part in reference)
            )
        return self.entries

    def end_epoch(self, last: bool) -> None:
        """Merge the entries of all replicas after an epoch; discard all after the `last` one.

        A sample that several replicas drew gets the mean of their entries, weighted by the numbers
        of draws: labelled samples may recur in an epoch.
        """
        if last:
            self.average, self.entries, self.distillation_module.record = {}, None, None
        if self.entries is not None and self.context.world_size > 1:
            total = self.context.all_reduce_sum(self.draw_counts.clone())
            for entries in self.entries:
                for first in range(0, len(entries), ROWS):
                    rows = slice(first, first + ROWS)
                    counts = total[rows, None]
                    blended = self.context.all_reduce_sum(
                        entries[rows] * self.draw_counts[rows, None]
                    ) / counts.clamp(min=1)
                    entries[rows] = torch.where(counts > 0, blended, entries[rows])
                    self.context.heartbeat()
            self.has_entry |= total > 0
        self.draw_counts.zero_()

    def compute_bank(self, raise_if_stopped: Callable[[], None]) -> Output:
        """Return the current bank, which no later step changes.

        Args:
            raise_if_stopped: Called by all ranks at intervals; raises Stopped if a stop was
                requested.

        Returns:
            Logits (n, K) and features (n, D).
        """
        if self.plan.fill != "momentum":
            return self._compute_clean_outputs(raise_if_stopped)
        if not self.has_entry.all():
            clean, missing = self._compute_clean_outputs(raise_if_stopped), ~self.has_entry
            for entries, fresh in zip(self._allocate_entries(clean), clean, strict=True):
                entries[missing] = fresh[missing]
            self.has_entry.fill_(True)
        assert self.entries is not None
        return Output(*(part.clone() for part in self.entries))

    @torch.no_grad()
    def _compute_clean_outputs(self, raise_if_stopped: Callable[[], None]) -> Output:
        """Return the outputs of the student, or of its average, on the clean training part.

        The student is in eval mode; the ranks share the pass.
        """
        training, context, tables = self.distillation_module.training, self.context, list[Tensor]()
        self.distillation_module.eval()
        num_done = 0
        for number, batch in enumerate(
            self.batches.full_blocks(None, context.rank, context.world_size), 1
        ):
            outputs = self.distillation_module.compute_output(batch, self.average or None)
            blocks = [
                torch.cat(context.all_gather(part.float()))[: len(self.has_entry) - num_done]
                for part in outputs
            ]
            tables = tables or [
                block.new_empty(len(self.has_entry), block.shape[1]) for block in blocks
            ]
            for table, block in zip(tables, blocks, strict=True):
                table[num_done : num_done + len(block)] = block
            num_done += len(blocks[0])
            context.heartbeat()
            if number % STOP_CHECK_BLOCKS == 0:
                raise_if_stopped()
        self.distillation_module.train(training)
        return Output(*tables)

    def build_knowledge(self, banks: Sequence[Output], epoch: int) -> Knowledge:
        """Return the knowledge of the method after `epoch` finished epochs.

        Args:
            banks: The student's own bank, or the banks of its peers, as the plan's `source`
                requires.
            epoch: Number of finished epochs.
        """
        logits, features = banks[0] if self.plan.source == "own" else join_banks(banks)
        return Knowledge(
            logits,
            features,
            self.labels,
            self._select_members(epoch),
            broadcast_nearest(self.context),
        )

    def _select_members(self, epoch: int) -> Tensor | None:
        if not 0 < self.plan.queue < len(self.has_entry):
            return None
        members = torch.zeros(len(self.has_entry), dtype=torch.bool)
        members[torch.from_numpy(self.batches.drawn_last(epoch - 1, self.plan.queue))] = True
        return members.to(self.context.device)

    def state(self) -> State:
        """Return the tensors that a resume needs in addition to the weights."""
        if self.entries is not None:
            return {**self.entries._asdict(), "seen": self.has_entry}
        return {f"{AVERAGE}{name}": value for name, value in self.average.items()}

    def find_misfit(self, saved: State) -> str:
        """Return why a saved state does not fit this bank; "" if it fits."""
        if self.plan.fill == "ema":
            if saved:
                return find_misfit(
                    "bank",
                    {f"{AVERAGE}{name}": value for name, value in self._copy_weights().items()},
                    saved,
                )
            return ""
        if self.plan.fill != "momentum" or not saved:
            return ""
        samples = len(self.has_entry)
        if set(saved) != {*Output._fields, "seen"} or any(
            len(value) != samples for value in saved.values()
        ):
            return f"the bank does not have one entry for each of the {samples} samples"
        return ""

    def restore(self, saved: State) -> None:
        """Restore a saved state; the student has the weights of the checkpoint already."""
        if self.plan.fill == "ema":
            self.average = self._copy_weights()  # the memory layout determines the last bits
            for name, value in self.average.items():
                value.copy_(saved.get(f"{AVERAGE}{name}", value))
        if self.plan.fill == "momentum" and "seen" in saved:
            device = self.context.device
            self.entries = Output(*(saved[name].to(device, copy=True) for name in Output._fields))
            self.has_entry = saved["seen"].to(device, copy=True)


def join_banks(banks: Sequence[Output]) -> Output:
    """Return several banks as one: mean logits (n, K), and joined features (n, sum of D).

    Unit features are concatenated, and scaled so that the inner product of two samples is the mean
    of their cosine similarities.
    """
    assert banks, "a student that learns from peers has at least one bank"
    logits = torch.stack([bank.logits for bank in banks]).mean(dim=0)
    return Output(
        logits,
        torch.cat([functional.normalize(bank.features, dim=1) for bank in banks], dim=1)
        / math.sqrt(len(banks)),
    )


def gather_banks(local_banks: Mapping[int, Output], context: TrialContext) -> dict[int, Output]:
    """Return the banks of all students of a trial, by position, on all ranks.

    The first rank that has a bank broadcasts it; all ranks call this together.

    Args:
        local_banks: The banks that this rank has, by position.
        context: The context of all ranks of the trial.
    """
    if context.world_size == 1:
        return dict(local_banks)
    shapes = context.all_gather_object(
        {
            position: [tuple(table.shape) for table in tables]
            for position, tables in local_banks.items()
        }
    )
    banks = {}
    for position in sorted({position for shapes_of_rank in shapes for position in shapes_of_rank}):
        source = next(
            rank for rank, shapes_of_rank in enumerate(shapes) if position in shapes_of_rank
        )
        tables = local_banks.get(position) or [
            torch.empty(shape, device=context.device) for shape in shapes[source][position]
        ]
        banks[position] = Output(*(context.broadcast_tensor(table, source) for table in tables))
        context.heartbeat()
    return banks


def broadcast_nearest(context: TrialContext) -> Callable[[Knowledge, int, int], Neighbours]:
    """Return exact retrieval that distributes the queries over the ranks of `context`.

    The ranks call it together, with the same knowledge.
    """

    def find_neighbours(knowledge: Knowledge, positives: int, negatives: int) -> Neighbours:
        assert knowledge.features is not None, "a bank has features"
        features, samples = knowledge.features.to(knowledge.labels.device), len(knowledge.labels)
        arguments = (knowledge.labels, positives, negatives, knowledge.members)
        if context.world_size == 1:
            return nearest(features, *arguments, heartbeat=context.heartbeat)
        share = -(-samples // context.world_size)  # padded with the last sample
        queries = (torch.arange(share, device=features.device) + context.rank * share).clamp(
            max=samples - 1
        )
        local = nearest(features, *arguments, queries=queries, heartbeat=context.heartbeat)
        tables = (torch.cat(context.all_gather(table))[:samples] for table in local[:4])
        same_class, other_class, same_similarity, other_similarity = tables
        return Neighbours(same_class, other_class, same_similarity, other_similarity, local.recall)

    return find_neighbours
