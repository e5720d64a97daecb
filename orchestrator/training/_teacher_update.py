"""Train the teacher for an epoch on weighted samples; the result is the trial's own teacher."""

import copy
from typing import cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from methods import Batch, Method, Output
from orchestrator.core.context import TrialContext
from orchestrator.data.batches import Batches
from orchestrator.data.memory import to_device
from orchestrator.models.batch_norm import synchronise
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.training._randomness import seed_everything
from orchestrator.training._sample_weight_schedule import SampleWeights
from orchestrator.training.sample_weighting import replace_teacher_weights

TEACHER = 3  # a seed that separates its draws from those of the student
MOMENTUM = 0.9


def update_teacher(
    teacher: FrozenTeacher,
    method: Method,
    weights: SampleWeights,
    batches: Batches,
    context: TrialContext,
    epoch: int,
    view: int | None,
) -> FrozenTeacher:
    """Return a new teacher: the given one after an epoch of `Method.teacher_loss` on a view.

    It uses SGD at `Method.teacher_lr`, in float32. All ranks of the student call this together.
    The optimizer starts without state each time, so no state has to be saved.

    Args:
        teacher: The teacher, which does not change.
        method: The method of the student.
        weights: The sample weights of the student.
        batches: The batches of the student.
        context: The context of the student's ranks.
        epoch: Number of finished epochs, which seeds the draws.
        view: Index of the augmented view; None for the clean view.
    """
    configuration = weights.spec.configuration
    seed_everything(configuration.seed, epoch, context.rank, TEACHER)
    network = copy.deepcopy(teacher.network).requires_grad_(True).train()
    if configuration.teacher and configuration.teacher.training.sync_batch_norm:
        synchronise(network, context)
    module: nn.Module = network
    if context.world_size > 1:
        ids = [context.device.index] if context.device.type == "cuda" else None
        module = DistributedDataParallel(network, device_ids=ids, process_group=context.group)
    optimizer = torch.optim.SGD(network.parameters(), method.teacher_lr, MOMENTUM)
    for inputs in batches.train(epoch, view):
        output, frozen_output = cast(Output, module(inputs.inputs)), teacher(inputs.inputs)
        index = to_device(inputs.index, inputs.inputs.device)
        fields = (index, inputs.inputs, inputs.labels, output, frozen_output)
        batch = Batch(
            *fields,
            weights=weights.lookup(index),
            mix=inputs.mix,
            mean=context.mean,
            all_labelled=batches.all_labelled,
        )
        optimizer.zero_grad(set_to_none=True)
        method.teacher_loss(batch, weights.noted["progress"]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        context.heartbeat()
    context.align_buffers(network)
    return replace_teacher_weights(teacher, network.state_dict())
