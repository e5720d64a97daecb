"""Component for methods that retrieve samples from a memory bank (`UsesMemoryBank`)."""

from collections.abc import Mapping

from methods import Method
from methods.bank_plan import BankPlan
from methods.capabilities import UsesMemoryBank, bank_plan
from orchestrator.training._student import TrainedStudent
from orchestrator.training._trial_metrics import Metrics
from orchestrator.training.capabilities._displayed_samples import collect_retrieved
from orchestrator.training.capabilities._student_bank import StudentBank, gather_banks
from orchestrator.training.capabilities.component import Component, ComponentState, State


class MemoryBankComponent(Component):
    """Give the method the teacher's bank once, or banks that students fill after their epochs."""

    name = "bank"
    plan: BankPlan
    banks: dict[str, StudentBank]  # by letter, if students fill them

    @classmethod
    def serves(cls, method: Method, epochs: int) -> bool:
        """Return whether the settings use a bank."""
        return bank_plan(method, epochs) is not None

    def prepare(self) -> None:
        """Give the methods the teacher's bank, or start the banks of the students."""
        plan = bank_plan(self.trial.method, self.trial.configuration.training.epochs)
        assert plan is not None
        self.plan, self.banks = plan, {}
        for student in self.trial.students:
            self.on_restart(student)
            if not plan.by_students:
                assert self.trial.teacher is not None, "the checks of a run require a teacher"
                _method(student).update_bank(self.trial.teacher.knowledge)

    def on_restart(self, student: TrainedStudent) -> None:
        """Start the bank of a student with its initial weights."""
        if self.plan.by_students:
            self.banks[student.letter] = StudentBank(
                self.plan, student.distillation_module, self.trial.batches, student.context
            )

    def on_student_step(self, student: TrainedStudent, step: object) -> None:
        """Update the average of the student's weights."""
        if self.plan.by_students:
            self.banks[student.letter].step()

    def on_epoch_end(self, epoch: int) -> dict[str, Metrics]:
        """Update the banks; discard them after the last epoch."""
        for bank in self.banks.values():
            with self.trial.clock.measure("bank"):
                bank.end_epoch(epoch == self.trial.configuration.training.epochs)
        self._update_banks(epoch)
        return {}

    def _update_banks(self, epoch: int) -> None:
        """Update the banks that are due after `epoch` finished epochs, in all students at once."""
        if not self.plan.is_due(epoch, self.trial.configuration.training.epochs):
            return
        context, students = self.trial.context, self.trial.students
        with self.trial.clock.measure("bank"):
            banks = {
                student.position: self.banks[student.letter].compute_bank(context.raise_if_stopped)
                for student in students
            }
            if self.plan.source == "peers":
                banks = gather_banks(banks, context)
            for student in students:
                uses_own = self.plan.source == "own"
                sources = [
                    bank
                    for position, bank in sorted(banks.items())
                    if (position == student.position) == uses_own
                ]
                knowledge = self.banks[student.letter].build_knowledge(sources, epoch)
                _method(student).update_bank(knowledge)

    def collect_samples(self, student: TrainedStudent) -> State:
        """Return a few samples with those retrieved for them."""
        neighbours, teacher = _method(student).neighbours, self.trial.teacher
        if neighbours is None:
            return {}
        # otherwise the bank is not the teacher's
        evaluated = teacher.network if teacher and student.method.needs.teacher else None
        return collect_retrieved(neighbours, evaluated, self.trial.batches)

    def state_dict(self, student: TrainedStudent) -> ComponentState:
        """Return the tensors that a resume needs in addition to the weights."""
        return ComponentState(self.banks[student.letter].state() if self.plan.by_students else {})

    def find_misfit(self, student: TrainedStudent, saved: ComponentState) -> str:
        """Return why a saved state does not fit the student's bank."""
        if not self.plan.by_students:
            return ""
        return self.banks[student.letter].find_misfit(saved.tensors)

    def load_state_dict(self, saved: Mapping[str, ComponentState], epoch: int) -> None:
        """Restore the banks, and update those that are due."""
        for letter, bank in self.banks.items():
            bank.restore(saved[letter].tensors)
        self._update_banks(epoch)


def _method(student: TrainedStudent) -> UsesMemoryBank:
    assert isinstance(student.method, UsesMemoryBank)
    return student.method
