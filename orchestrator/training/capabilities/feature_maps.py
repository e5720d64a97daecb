"""Component for methods that use feature maps of student and teacher (`UsesFeatureMaps`)."""

from methods import Method
from methods.capabilities import UsesFeatureMaps
from orchestrator.training.capabilities.component import Component, Step


class FeatureMapsComponent(Component):
    """Give each method the teacher's feature maps of the batch; the student records its own."""

    name = "feature_maps"

    @classmethod
    def serves(cls, method: Method, epochs: int) -> bool:
        """Return whether the method uses feature maps."""
        return isinstance(method, UsesFeatureMaps)

    def on_step_start(self, step: Step) -> None:
        """Provide the maps of the stages that each student's method selects."""
        teacher = self.trial.teacher
        assert teacher is not None, "the checks of a run require a teacher"
        for student in self.trial.students:
            stages = student.select_stages(teacher.network.network).teacher
            student.distillation_module.teacher_maps = {
                name: teacher.source.maps[name] for name in stages
            }
