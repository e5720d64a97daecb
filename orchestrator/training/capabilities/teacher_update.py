"""Component for methods that train the teacher with sample weights (`UpdatesTeacher`)."""

import copy
from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from methods import Batch, Method, Output
from methods.capabilities import UpdatesTeacher, teacher_lr
from orchestrator.config.sizes import views
from orchestrator.data.memory import to_device
from orchestrator.models.batch_norm import synchronise
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.training._optimization import SGD, clear_gradients
from orchestrator.training._randomness import seed_everything
from orchestrator.training._restorable import find_misfit
from orchestrator.training._student import TrainedStudent
from orchestrator.training._trial_metrics import Metrics
from orchestrator.training._trial_teacher import TrialTeacher
from orchestrator.training.capabilities._student_weights import SampleWeights
from orchestrator.training.capabilities.component import Component, ComponentState, RunningTrial
from orchestrator.training.capabilities.sample_weights import SampleWeightsComponent
from orchestrator.training.sample_weighting import replace_teacher_weights

TEACHER = 3  # a seed that separates its draws from those of the student
MOMENTUM = 0.9


class TeacherUpdateComponent(Component):
    """Train the teacher for an epoch whenever new sample weights come into force.

    The result is the trial's own teacher.
    """

    name = "teacher"

    @classmethod
    def serves(cls, method: Method, epochs: int) -> bool:
        """Return whether the settings train the teacher."""
        return teacher_lr(method) > 0

    @property
    def teacher(self) -> TrialTeacher:
        """Return the teacher of the trial."""
        assert self.trial.teacher is not None, "the checks of a run require a teacher"
        return self.trial.teacher

    def on_epoch_end(self, epoch: int) -> dict[str, Metrics]:
        """Train the teacher if a student has new weights; return its validation accuracy."""
        new_metrics: dict[str, Metrics] = {}
        sample_weights = self.trial.find_component(SampleWeightsComponent).weights
        for student in self.trial.students:
            weights = sample_weights[student.letter]
            if weights.applied_after == epoch:
                with self.trial.clock.measure("teaching"):
                    self.teacher.change(train_teacher(self.trial, student, weights, epoch))
                    new_metrics[student.letter] = {
                        "influence/teacher_accuracy": self._compute_accuracy(student)
                    }
        return new_metrics

    def _compute_accuracy(self, student: TrainedStudent) -> float:
        """Return the accuracy of the teacher on the validation part."""
        context, validation = student.context, self.trial.batches.dataset.validation
        predictions = self.teacher.validation_predictions(context)
        labels = np.array_split(validation.labels, context.world_size)[context.rank]
        correct = (predictions.cpu() == torch.from_numpy(labels)).double().sum()
        return float(context.all_reduce_sum(correct.to(context.device))) / len(validation)

    def state_dict(self, student: TrainedStudent) -> ComponentState:
        """Return the weights of the teacher, if the trial has changed them."""
        return ComponentState(self.teacher.state_dict())

    def find_misfit(self, student: TrainedStudent, saved: ComponentState) -> str:
        """Return why saved weights do not fit the teacher."""
        expected = self.teacher.single.network.state_dict() if saved.tensors else {}
        return find_misfit("teacher", expected, saved.tensors)

    def load_state_dict(self, saved: Mapping[str, ComponentState], epoch: int) -> None:
        """Restore a teacher that the trial has changed."""
        if state := saved["a"].tensors:
            self.teacher.change(replace_teacher_weights(self.teacher.single, state))


def train_teacher(
    trial: RunningTrial, student: TrainedStudent, weights: SampleWeights, epoch: int
) -> FrozenTeacher:
    """Return a new teacher: that of the trial after an epoch of `teacher_loss`.

    It uses SGD at `teacher_lr`, in float32. All ranks of the student call this together. The
    optimizer starts without state each time, so no state has to be saved.

    Args:
        trial: The trial, whose teacher does not change.
        student: The student.
        weights: The sample weights of the student.
        epoch: Number of finished epochs, which seeds the draws and selects the view.
    """
    assert trial.teacher is not None and isinstance(student.method, UpdatesTeacher)
    teacher, method, batches = trial.teacher.single, student.method, trial.batches
    context = student.context
    view = epoch % views(trial.configuration) if batches.views.varies else None
    configuration = trial.configuration
    seed_everything(configuration.seed, epoch, context.rank, TEACHER)
    network = copy.deepcopy(teacher.network).requires_grad_(True).train()
    if configuration.teacher and configuration.teacher.training.sync_batch_norm:
        synchronise(network, context)
    module: nn.Module = network
    if context.world_size > 1:
        ids = [context.device.index] if context.device.type == "cuda" else None
        module = DistributedDataParallel(network, device_ids=ids, process_group=context.group)
    optimizer = SGD(network.parameters(), method.teacher_lr, MOMENTUM, fused=True)
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
        clear_gradients(optimizer)
        method.teacher_loss(batch, weights.noted["progress"]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        context.heartbeat()
    context.align_buffers(network)
    return replace_teacher_weights(teacher, network.state_dict())
