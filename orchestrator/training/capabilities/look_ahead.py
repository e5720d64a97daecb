"""Component for methods that evaluate the student beyond the next step (`LooksAhead`)."""

from collections.abc import Iterator

from methods import Method
from methods.capabilities import LooksAhead
from orchestrator.data.passes import Inputs
from orchestrator.training.capabilities.component import Component, Step


class LookAheadComponent(Component):
    """Let each method look ahead at its interval, with a batch of the validation part."""

    name = "look_ahead"
    interval = 0
    held_out: Iterator[Inputs] = iter(())

    @classmethod
    def serves(cls, method: Method, epochs: int) -> bool:
        """Return whether the method ever looks ahead."""
        return isinstance(method, LooksAhead) and method.look_ahead_interval > 0

    def on_epoch_start(self, epoch: int) -> None:
        """Draw the validation batches of the epoch."""
        method, batches = self.trial.method, self.trial.batches
        assert isinstance(method, LooksAhead)
        self.interval = method.look_ahead_interval
        self.held_out = batches.draw_validation_batches(epoch, -(-batches.steps() // self.interval))

    def on_step_start(self, step: Step) -> None:
        """Let the method of every student look ahead if the step is due."""
        if step.number % self.interval:
            return
        held_out = next(self.held_out)
        for student in self.trial.students:
            assert isinstance(student.method, LooksAhead)
            with student.draws.continue_sequence():
                student.method.look_ahead(
                    student.distillation_module.build_look_ahead(
                        step.batch,
                        step.teacher_output,
                        held_out,
                        student.learning_rate(step.progress),
                    )
                )
