"""Student and method as one module, so that DDP reduces the parameters of both. Knows one batch at a time."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from methods import Batch, Method, Output
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
        with torch.autocast(batch.inputs.device.type, self.half_type or torch.bfloat16, enabled=self.half_type is not None):
            student = self.student(batch.inputs)
        index = sent(batch.index, batch.inputs.device)
        objective = self.method(Batch(index, batch.inputs, batch.labels, student, teacher, mix=batch.mix))
        return objective.loss, objective.terms


def replicate(learner: Learner, context: TrialContext) -> nn.Module:
    """The learner, wrapped by DDP when several workers train it."""
    if context.world_size == 1:
        return learner
    ids = [context.device.index] if context.device.type == "cuda" else None
    return cast(nn.Module, DistributedDataParallel(learner, device_ids=ids))
