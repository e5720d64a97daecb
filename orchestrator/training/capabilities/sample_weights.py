"""Component for methods that weight the training samples (`WeightsSamples`)."""

from collections.abc import Mapping

from torch import Tensor

from methods import Method
from methods.capabilities import weighting_plan
from orchestrator.training._student import TrainedStudent
from orchestrator.training._trial_metrics import Metrics
from orchestrator.training.capabilities._student_weights import SampleWeights
from orchestrator.training.capabilities.component import Component, ComponentState, State


class SampleWeightsComponent(Component):
    """Weight the samples of each student's steps, and update the weights between epochs."""

    name = "weights"
    weights: dict[str, SampleWeights]  # by letter

    @classmethod
    def serves(cls, method: Method, epochs: int) -> bool:
        """Return whether the method weights samples."""
        return weighting_plan(method, epochs) is not None

    def prepare(self) -> None:
        """Give every student its weights, which are 1 at first."""
        trial, self.weights = self.trial, {}
        for student in trial.students:
            plan = weighting_plan(student.method, trial.configuration.training.epochs)
            assert plan is not None
            weights = SampleWeights(
                trial.spec, student.letter, plan, trial.batches.dataset, student.context
            )
            self.weights[student.letter] = weights
            student.distillation_module.lookup_weights = weights.lookup
            student.restart_epoch = plan.restarts_after

    def on_epoch_start(self, epoch: int) -> None:
        """Restart the students whose weighting requires it at this epoch."""
        for student in self.trial.students:
            if epoch == student.restart_epoch:
                self.trial.restart(student)

    def epoch_values(self, student: TrainedStudent) -> dict[str, float | Tensor]:
        """Return the spread of the weights, and the data of their figures."""
        weights = self.weights[student.letter]
        return weights.metrics() | weights.figure_data()

    def on_epoch_end(self, epoch: int) -> dict[str, Metrics]:
        """Update the weights; return the metrics of new ones by letter."""
        new_metrics: dict[str, Metrics] = {}
        teacher = self.trial.teacher
        for student in self.trial.students:
            weights = self.weights[student.letter]
            with self.trial.clock.measure("influence"):
                metrics = weights.end_epoch(
                    epoch, student.student.state_dict, teacher.state_dict if teacher else dict
                )
            if metrics is not None:
                new_metrics[student.letter] = metrics
                if weights.influence_client:
                    self.trial.cost.add_cpu_seconds(metrics["influence/cpu_seconds"])
        return new_metrics

    def collect_samples(self, student: TrainedStudent) -> State:
        """Return the most harmful and the most helpful samples."""
        return self.weights[student.letter].collect_extreme_samples()

    def take_notes(self) -> list[str]:
        """Return the messages of all ranks."""
        local = [note for weights in self.weights.values() for note in weights.notes()]
        return [note for notes in self.trial.context.all_gather_object(local) for note in notes]

    def state_dict(self, student: TrainedStudent) -> ComponentState:
        """Return the weights of a student, and a pending snapshot."""
        return ComponentState(*self.weights[student.letter].state())

    def find_misfit(self, student: TrainedStudent, saved: ComponentState) -> str:
        """Return why saved weights do not fit."""
        return self.weights[student.letter].find_misfit(saved.tensors, saved.values)

    def load_state_dict(self, saved: Mapping[str, ComponentState], epoch: int) -> None:
        """Restore the weights, and send pending snapshots again."""
        for letter, weights in self.weights.items():
            weights.restore(saved[letter].tensors, saved[letter].values)
