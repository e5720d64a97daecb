"""Component that collects predictions for display, with a method's own distributions (`Plots`)."""

import torch
from torch import Tensor

from methods import Batch, Method, losses
from methods.capabilities import Plots
from orchestrator.data.batches import Batches
from orchestrator.teacher.ensemble import AnyTeacher
from orchestrator.training._distillation_module import DistillationModule
from orchestrator.training._student import TrainedStudent
from orchestrator.training.capabilities.component import Component, State

NUM_SAMPLES = 6  # samples with stored distributions
MAX_WEIGHT_SAMPLES = 2048  # validation samples over which class weights are averaged, at most


class PlotsComponent(Component):
    """Collect the predictions of every finished student on a few validation samples."""

    name = "plots"

    @classmethod
    def serves(cls, method: Method, epochs: int) -> bool:
        """Return True: predictions are shown for every method."""
        return True

    def collect_samples(self, student: TrainedStudent) -> State:
        """Return the predictions, and the method's class weights if it has them."""
        teacher = self.trial.teacher
        return collect_predictions(
            student.distillation_module, teacher.network if teacher else None, self.trial.batches
        )


@torch.no_grad()
def collect_predictions(
    distillation_module: DistillationModule, teacher: AnyTeacher | None, batches: Batches
) -> dict[str, Tensor]:
    """Return predictions on samples of the validation part, in eval mode.

    The mode of the module is restored afterwards.

    Returns:
        `labels` (S,), distributions (S, K) by name and, if the method has them, `class_weights`
        (K, K), whose rows are true classes. A class without a sample has a row of NaN.
    """
    training = distillation_module.training
    distillation_module.eval()
    predictions: dict[str, Tensor] = {}
    classes = len(batches.dataset.classes)
    sums, counts = torch.zeros(classes, classes), torch.zeros(classes)
    for inputs in batches.spaced_samples("validation", MAX_WEIGHT_SAMPLES):
        batch = distillation_module.build_batch(inputs, teacher(inputs.inputs) if teacher else None)
        if not predictions:
            predictions = {"labels": batch.labels[:NUM_SAMPLES].cpu()}
            predictions |= {
                name: rows[:NUM_SAMPLES].float().cpu()
                for name, rows in class_distributions(distillation_module.method, batch).items()
            }
        method = distillation_module.method
        weights = method.class_weights(batch) if isinstance(method, Plots) else None
        if weights is None:
            break
        sums.index_add_(0, batch.labels.cpu(), weights.float().cpu())
        counts += torch.bincount(batch.labels.cpu(), minlength=classes)
    distillation_module.train(training)
    return predictions | ({"class_weights": sums / counts[:, None]} if counts.any() else {})


def class_distributions(method: Method, batch: Batch) -> dict[str, Tensor]:
    """Return the distributions (B, K) to show: the method's own, or those of teacher and student.

    The keys are the names of their sources.
    """
    if isinstance(method, Plots):
        return method.class_distributions(batch)
    logits = {"student": batch.student.logits}
    if batch.teacher is not None:
        logits = {"teacher": batch.teacher_logits} | logits
    return {name: losses.log_softmax(each).exp() for name, each in logits.items()}
