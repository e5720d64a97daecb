"""Component for trials with several teachers: learned weights, and metrics of the ensemble."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from methods import Method
from orchestrator.teacher.ensemble import EnsembleOutputs, FrozenEnsemble
from orchestrator.training._restorable import find_misfit
from orchestrator.training._student import TrainedStudent
from orchestrator.training._trial_metrics import Metrics
from orchestrator.training.capabilities.component import Component, ComponentState
from orchestrator.training.process_cache import compute_validation_logits

DRAWS = 4  # a seed that separates the order of the validation samples from other draws


class TeacherWeightsComponent(Component):
    """Learn the weights of several teachers, and report them with the ensemble's accuracy.

    Learned weights minimise the cross entropy of the averaged logits with the labels of the
    validation part. This is the choice of weights of a logarithmic opinion pool by held-out samples
    (Heskes 1998, Selecting weighting factors in logarithmic opinion pools). The objective is convex
    in the weights, and does not depend on the student: a weight cannot rise because a teacher is
    easy to imitate, or has memorised the training part. Before each epoch there is one pass of
    exponentiated gradient steps (Kivinen & Warmuth 1997), w_m <- w_m exp(-rate g_m) / sum, with the
    gradient g of a batch of the whole group. The weights stay positive and sum to 1.
    """

    name = "ensemble"

    @classmethod
    def serves(cls, method: Method, epochs: int) -> bool:
        """Return False: the trainer adds the component if there are several teachers."""
        return False

    @property
    def ensemble(self) -> FrozenEnsemble:
        """Return the teachers of the trial."""
        assert self.trial.teacher is not None
        ensemble = self.trial.teacher.network
        assert isinstance(ensemble, FrozenEnsemble)
        return ensemble

    @property
    def learns(self) -> bool:
        """Return whether the weights are learned."""
        return self.ensemble.weights.kind == "learned"

    def _labels(self) -> Tensor:
        """Return the labels of this rank's share of the validation part."""
        context, batches = self.trial.exchange.context, self.trial.batches
        labels = np.array_split(batches.dataset.validation.labels, context.world_size)
        return torch.from_numpy(labels[context.rank])

    def on_epoch_start(self, epoch: int) -> None:
        """Learn the weights for one pass over the validation part."""
        if not self.learns:
            return
        ensemble, batches = self.ensemble, self.trial.batches
        context = self.trial.exchange.context
        with self.trial.clock.measure("teacher"):
            logits = torch.stack(compute_validation_logits(ensemble, batches, context))
            labels = self._labels()
            seeds = [self.trial.configuration.seed, epoch, context.rank, DRAWS]
            order = torch.from_numpy(np.random.default_rng(seeds).permutation(len(labels)))
            steps = -(-len(batches.dataset.validation) // batches.batch_size)
            for chosen in torch.tensor_split(order, steps):
                self._step(logits[:, chosen], labels[chosen])

    def _step(self, logits: Tensor, labels: Tensor) -> None:
        """Step with the mean gradient of all ranks; this rank has logits (M, B, K)."""
        weights, device = self.ensemble.weights, self.ensemble.weights.logits.device
        current = weights.logits.softmax(dim=0)
        gradient = pool_gradient(current, logits.to(device), labels.to(device))
        count = gradient.new_tensor([len(labels)])
        sums = self.trial.context.all_reduce_sum(torch.cat([gradient, count]))
        rate = self.trial.configuration.ensemble.learning_rate
        weights.logits = (weights.logits - rate * sums[:-1] / sums[-1]).log_softmax(dim=0)

    def on_epoch_end(self, epoch: int) -> dict[str, Metrics]:
        """Return the accuracy of the ensemble, and each teacher's mean weight in the epoch."""
        teacher, context = self.trial.teacher, self.trial.exchange.context
        assert teacher is not None and isinstance(teacher.source, EnsembleOutputs)
        predictions, labels = teacher.validation_predictions(context).cpu(), self._labels()
        correct = (predictions == labels).double().sum().to(context.device)
        accuracy = float(context.all_reduce_sum(correct)) / len(
            self.trial.batches.dataset.validation
        )
        metrics = {"ensemble/accuracy": accuracy}
        if teacher.uses_outputs:
            means = context.mean(teacher.source.take_mean_weights()).tolist()
            metrics |= {f"ensemble/weight_{number}": mean for number, mean in enumerate(means)}
        return {student.letter: dict(metrics) for student in self.trial.students}

    def state_dict(self, student: TrainedStudent) -> ComponentState:
        """Return the learned weights."""
        return ComponentState({"logits": self.ensemble.weights.logits} if self.learns else {})

    def find_misfit(self, student: TrainedStudent, saved: ComponentState) -> str:
        """Return why saved weights do not fit the teachers.

        A trial of a population may take over the state of one with another kind of weights.
        """
        if not self.learns or not saved.tensors:
            return ""
        expected = {"logits": self.ensemble.weights.logits}
        return find_misfit("weights of the teachers", expected, saved.tensors)

    def load_state_dict(self, saved: Mapping[str, ComponentState], epoch: int) -> None:
        """Restore the learned weights."""
        if self.learns and saved["a"].tensors:
            weights = self.ensemble.weights
            weights.logits = saved["a"].tensors["logits"].to(weights.logits.device)


def pool_gradient(weights: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of the summed cross entropy of the averaged logits, (M,).

    Args:
        weights: (M,) weights.
        logits: (M, B, K) logits.
        labels: (B,) labels; samples labelled -1 have no gradient.
    """
    residuals = (weights[:, None, None] * logits).sum(dim=0).softmax(dim=1)
    residuals[torch.arange(len(labels)), labels] -= 1
    residuals[labels < 0] = 0
    return (residuals * logits).sum(dim=(1, 2))
