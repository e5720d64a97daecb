"""Component for methods whose students learn from each other's outputs (`PeerAware`)."""

from collections.abc import Callable

import torch
from torch import Tensor

from methods import Method
from methods.capabilities import updates_alternately, uses_peers
from orchestrator.training._distillation_module import PeerReader
from orchestrator.training._student import TrainedStudent
from orchestrator.training.capabilities.component import Component, Step


class PeersComponent(Component):
    """Exchange the students' outputs on each batch."""

    name = "peers"
    in_turn = False

    @classmethod
    def serves(cls, method: Method, epochs: int) -> bool:
        """Return whether the students use each other's outputs."""
        return uses_peers(method)

    def prepare(self) -> None:
        """Give every student access to the outputs of the others."""
        self.in_turn = updates_alternately(self.trial.method)
        for student in self.trial.students:
            student.read_peers = self._peer_reader(student)

    def on_step_start(self, step: Step) -> None:
        """Publish the outputs of all students of this process before any of them steps."""
        if len(self.trial.students) > 1:
            for student in self.trial.students:
                with student.draws.continue_sequence():
                    student.output = student.distillation_module.compute_output(step.batch)
                self._publish(student, student.output.logits)

    def on_student_step(self, student: TrainedStudent, step: Step) -> None:
        """Publish the outputs after the step again, if students after this one use them."""
        if self.in_turn and student.position < self.trial.exchange.count - 1:
            self._republish(student, step)

    def on_step_end(self) -> None:
        """End the exchange of this step."""
        self.trial.exchange.end_step()

    def _peer_reader(self, student: TrainedStudent) -> PeerReader:
        def read_peers(logits: Tensor) -> Callable[[], Tensor]:
            if student.output is None:  # else it was published
                self._publish(student, logits)
            return self.trial.exchange.receive(student.position)

        return read_peers

    def _publish(self, student: TrainedStudent, logits: Tensor) -> None:
        self.trial.exchange.publish(student.position, logits.detach().float(), self.in_turn)

    @torch.no_grad()
    def _republish(self, student: TrainedStudent, step: Step) -> None:
        """Compute and publish the outputs; buffers and random state do not change."""
        with student.draws.preserve_state():
            output = student.distillation_module.compute_output(
                step.batch, dict(student.student.named_parameters())
            )
        self.trial.exchange.republish(student.position, output.logits.float())
