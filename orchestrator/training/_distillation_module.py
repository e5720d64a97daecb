"""Combine student and method in one module, so that DDP reduces the parameters of both."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from methods import Batch, LookAhead, Method, Objective, Output
from methods.batch import single_rank_mean
from orchestrator.core.context import TrialContext
from orchestrator.data.memory import to_device
from orchestrator.data.passes import Inputs
from orchestrator.models.feature_maps import recorded_maps
from orchestrator.models.network import head_tensors, with_exact_head
from orchestrator.training._compilation import ComputeStep, compile_step

NO_MAPS: Mapping[str, Tensor] = {}
_NOTHING = contextlib.nullcontext(NO_MAPS)
# logits of the student (B, K) -> a function that returns the logits of its peers (P, B, K)
PeerReader = Callable[[Tensor], Callable[[], Tensor]]


class DistillationModule(nn.Module):
    """The student's forward, under autocast if configured, and the method's float32 objective."""

    mean: Callable[[Tensor], Tensor]

    def __init__(
        self,
        student: nn.Module,
        method: Method,
        half_type: torch.dtype | None,
        eval_half_type: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.method = method
        self.half_type = half_type
        self.eval_half_type = eval_half_type
        self.lookup_weights: Callable[[Tensor], Tensor] | None = (
            None  # training samples (B,) -> their weights (B,)
        )
        # stores the outputs on training samples (B,)
        self.record: Callable[[Tensor, Output], None] | None = None
        self.mean, self.all_labelled, self.ranks = single_rank_mean, False, 1  # as in `Batch`
        self.class_weights: Tensor | None = None
        self.stages: tuple[str, ...] = ()  # stages of the student whose maps the method uses
        self.student_maps: Mapping[str, Tensor] = NO_MAPS  # of the last output
        self.teacher_maps: Mapping[str, Tensor] = NO_MAPS  # of the batch of this step
        self._compute_step: ComputeStep = self._compute_objective

    def forward(
        self,
        batch: Inputs,
        teacher: Output | None,
        output: Output | None = None,
        read_peers: PeerReader | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar loss and the detached terms.

        Args:
            batch: The inputs.
            teacher: The teacher's outputs, if the method uses them.
            output: The student's outputs on the batch; None to compute them.
            read_peers: Returns access to the peers' logits, given the student's.
        """
        weights = self.lookup_weights(batch.index) if self.lookup_weights else None
        peers = None
        if read_peers:
            output = self.compute_output(batch) if output is None else output
            peers = read_peers(output.logits)
        output, objective = self._compute_step(batch, teacher, output, peers, weights)
        if self.record:
            self.record(batch.index, output)
        if self.stages:
            self.student_maps = self.teacher_maps = NO_MAPS
        return objective.loss, objective.terms

    def _compute_objective(
        self,
        batch: Inputs,
        teacher: Output | None,
        output: Output | None,
        peers: Callable[[], Tensor] | None,
        weights: Tensor | None,
    ) -> tuple[Output, Objective]:
        """Return the student's outputs and the objective, without access to anything else."""
        output = self.compute_output(batch) if output is None else output
        return output, self.method(
            self._batch(batch, teacher, output, peers, weights, self.teacher_maps)
        )

    def compile_step(self, device: torch.device) -> None:
        """Compile the computation of outputs and objective as one function."""
        self._compute_step = compile_step(self._compute_objective, self.method, device)

    def compute_output(
        self, batch: Inputs, parameters: Mapping[str, Tensor] | None = None
    ) -> Output:
        """Return the student's outputs on a batch.

        In eval mode, the forward has the type of evaluations, and the head is in float32.

        Args:
            batch: The inputs.
            parameters: Other parameters of the student, whose buffers then do not change; None for
                its own.
        """
        half = self.half_type if self.training else self.eval_half_type
        stages = self.stages if self.training else ()
        if self.stages:
            self.student_maps = NO_MAPS
        if half is None and not stages:  # most trials: neither context costs anything
            return self._forward(batch.inputs, parameters)
        with (
            torch.autocast(
                batch.inputs.device.type, half or torch.bfloat16, enabled=half is not None
            ),
            recorded_maps(self.student, stages) if stages else _NOTHING as maps,
        ):
            output = self._forward(batch.inputs, parameters)
        if stages:
            self.student_maps = {name: maps[name] for name in stages}
        if self.training or half is None:
            return output
        return with_exact_head(output, *head_tensors(self.student, parameters))

    def _forward(self, inputs: Tensor, parameters: Mapping[str, Tensor] | None) -> Output:
        if parameters is None:
            return cast(Output, self.student(inputs))
        buffers = {name: buffer.clone() for name, buffer in self.student.named_buffers()}
        return cast(Output, functional_call(self.student, {**parameters, **buffers}, (inputs,)))

    def build_batch(
        self,
        batch: Inputs,
        teacher: Output | None,
        parameters: Mapping[str, Tensor] | None = None,
        teacher_maps: Mapping[str, Tensor] = NO_MAPS,
    ) -> Batch:
        """Return the batch as the method sees it, without peers and weights.

        Args:
            batch: The inputs.
            teacher: The teacher's outputs, if there are any.
            parameters: Other parameters of the student; None for its own.
            teacher_maps: The teacher's feature maps, if the method uses them.
        """
        output = self.compute_output(batch, parameters)
        return self._batch(batch, teacher, output, None, teacher_maps=teacher_maps)

    def _batch(
        self,
        batch: Inputs,
        teacher: Output | None,
        output: Output,
        peers: Callable[[], Tensor] | None,
        weights: Tensor | None = None,
        teacher_maps: Mapping[str, Tensor] = NO_MAPS,
    ) -> Batch:
        index = to_device(batch.index, batch.inputs.device)
        part = (index, batch.inputs, batch.labels, output, teacher, peers, weights, batch.mix)
        return Batch(
            *part,
            mean=self.mean,
            ranks=self.ranks,
            all_labelled=self.all_labelled,
            student_maps=self.student_maps,
            teacher_maps=teacher_maps,
            class_weights=self.class_weights,
        )

    def build_look_ahead(
        self, batch: Inputs, teacher: Output | None, held_out: Inputs, rate: float
    ) -> LookAhead:
        """Return the view of a method that looks beyond a step.

        Args:
            batch: The inputs of the step.
            teacher: The teacher's outputs on them.
            held_out: Inputs of the validation part.
            rate: The learning rate of the step.
        """
        return LookAhead(
            parameters=dict(self.student.named_parameters()),
            training=lambda parameters: self.build_batch(
                batch, teacher, parameters, self.teacher_maps
            ),
            held_out=lambda parameters: self.build_batch(held_out, None, parameters),
            learning_rate=rate,
        )


def replicate(distillation_module: DistillationModule, context: TrialContext) -> nn.Module:
    """Return the module, wrapped by DDP if several workers train it."""
    if context.world_size == 1:
        return distillation_module
    if distillation_module.method.has_equal_buffers:
        equal = [f"method.{name}" for name, _ in distillation_module.method.named_buffers()]
        ignore: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
        ignore(distillation_module, equal)
    ids = [context.device.index] if context.device.type == "cuda" else None
    return cast(
        nn.Module,
        DistributedDataParallel(distillation_module, device_ids=ids, process_group=context.group),
    )
