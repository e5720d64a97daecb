"""Component for methods that use feature maps of student and teacher (`UsesFeatureMaps`)."""

from methods import Method
from methods.capabilities import UsesFeatureMaps
from orchestrator.teacher.ensemble import EnsembleOutputs
from orchestrator.training.capabilities.component import Component, Step


class FeatureMapsComponent(Component):
    """Give each method the teacher's feature maps of the batch; the student records its own."""

    name = "feature_maps"

    @classmethod
    def serves(cls, method: Method, epochs: int) -> bool:
        """Return whether the method uses feature maps."""
        return isinstance(method, UsesFeatureMaps)

    def prepare(self) -> None:
        """Select the stages of each student's teacher maps."""
        teacher = self.trial.teacher
        assert teacher is not None, "the checks of a run require a teacher"
        self.teacher = teacher
        self.stages = [
            student.select_stages(teacher.network.network).teacher
            for student in self.trial.students
        ]

    def on_step_start(self, step: Step) -> None:
        """Provide the maps of the selected stages."""
        source = self.teacher.source
        assert not isinstance(source, EnsembleOutputs), "several teachers are refused"
        maps, source.maps = source.maps, {}
        for student, stages in zip(self.trial.students, self.stages, strict=True):
            student.distillation_module.teacher_maps = {name: maps[name] for name in stages}
