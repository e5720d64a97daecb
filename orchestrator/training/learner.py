"""Student and method as one module, so that DDP reduces the parameters of both. Knows one batch at a time."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from methods import Batch, LookAhead, Method, Output
from orchestrator.context import TrialContext
from orchestrator.data import Inputs
from orchestrator.data.memory import sent


class Learner(nn.Module):
    """The student's forward, under autocast when asked, followed by the method's objective in float32."""

    def __init__(self, student: nn.Module, method: Method, half_type: torch.dtype | None) -> None:
        super().__init__()
        self.student, self.method, self.half_type = student, method, half_type

    def forward(self, batch: Inputs, teacher: Output | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar loss and the detached terms."""
        objective = self.method(self.seen(batch, teacher))
        return objective.loss, objective.terms

    def seen(self, batch: Inputs, teacher: Output | None, at: Mapping[str, Tensor] | None = None) -> Batch:
        """The batch as the method sees it, with what the student says; `at`: with other parameters, and its buffers untouched."""
        with torch.autocast(batch.inputs.device.type, self.half_type or torch.bfloat16, enabled=self.half_type is not None):
            if at is None:
                student = self.student(batch.inputs)
            else:
                buffers = {name: buffer.clone() for name, buffer in self.student.named_buffers()}
                student = functional_call(self.student, {**at, **buffers}, (batch.inputs,))
        index = sent(batch.index, batch.inputs.device)
        return Batch(index, batch.inputs, batch.labels, student, teacher, mix=batch.mix)

    def ahead(self, batch: Inputs, teacher: Output | None, held_out: Inputs, rate: float) -> LookAhead:
        """What a method that looks beyond the step on `batch` sees."""
        return LookAhead(
            parameters=dict(self.student.named_parameters()),
            training=lambda parameters: self.seen(batch, teacher, parameters),
            held_out=lambda parameters: self.seen(held_out, None, parameters),
            learning_rate=rate,
        )


def replicate(learner: Learner, context: TrialContext) -> nn.Module:
    """The learner, wrapped by DDP when several workers train it."""
    if context.world_size == 1:
        return learner
    ids = [context.device.index] if context.device.type == "cuda" else None
    return cast(nn.Module, DistributedDataParallel(learner, device_ids=ids))
