"""The teacher of a trial, and the source of its outputs: computed at every step, or cached."""

import functools
import shutil
from collections.abc import Sequence
from itertools import chain

from torch import Tensor

from methods import Knowledge, Output
from methods.capabilities import teacher_lr, uses_teacher_bank
from methods.retrieval import Neighbours
from orchestrator.config.sizes import views
from orchestrator.config.trial import KNOWLEDGE, TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.data.batches import Batches
from orchestrator.data.passes import Inputs
from orchestrator.teacher.ensemble import AnyTeacher
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.teacher.outputs import OnlineTeacher
from orchestrator.teacher.retrieval import Retrieval
from orchestrator.training._clock import Clock
from orchestrator.training._student import TrainedStudent
from orchestrator.training.checkpoint import State
from orchestrator.training.process_cache import (
    TeacherOutputSource,
    build_retrieval,
    compute_clean_knowledge,
    compute_teacher_outputs,
    compute_validation_predictions,
)

PHASE = "the teacher's forward pass over a view"


class TrialTeacher:
    """A teacher whose outputs a trial uses. All ranks call its methods together.

    Args:
        network: The teacher, or the ensemble of several.
        spec: The specification of the trial.
        batches: The batches of this rank.
        context: The context of all ranks of the trial.
        replicas: The context of the ranks of one student.
        clock: Measures the time.
        students: The students of this process; their methods define the outputs that are used.
    """

    def __init__(
        self,
        network: AnyTeacher,
        spec: TrialSpec,
        batches: Batches,
        context: TrialContext,
        replicas: TrialContext,
        clock: Clock,
        students: Sequence[TrainedStudent],
    ) -> None:
        self.network, self.spec, self.batches, self.clock = network, spec, batches, clock
        self.context, self.replicas = context, replicas
        method = students[0].method
        self.features = method.needs.features
        local_stages = [student.select_stages(network.network).teacher for student in students]
        # all ranks open the same files
        of_ranks = context.all_gather_object(sorted({*chain.from_iterable(local_stages)}))
        self.stages = sorted({*chain.from_iterable(of_ranks)})
        self.uses_outputs = method.needs.teacher or self.features or bool(self.stages)
        self.changed = False  # whether the trial has changed the weights
        # later views need the same teacher
        fixed = batches.views.varies and not teacher_lr(method)
        upcoming = range(views(spec.configuration)) if fixed else ()
        self.source = self._build_source(spec, network, upcoming)
        self.retrieval: Retrieval | None = None
        if uses_teacher_bank(method, spec.configuration.training.epochs):
            self.retrieval = build_retrieval(spec, self.source, batches, context)

    @property
    def single(self) -> FrozenTeacher:
        """Return the teacher, for a method that several teachers are refused for."""
        assert isinstance(self.network, FrozenTeacher)
        return self.network

    def _build_source(
        self, spec: TrialSpec, network: AnyTeacher, upcoming: Sequence[int] = ()
    ) -> TeacherOutputSource:
        return compute_teacher_outputs(
            spec, network, self.batches, self.context, self.features, self.stages, upcoming
        )

    def release_knowledge(self) -> None:
        """Free the outputs on the clean training part, unless a method holds them."""
        self.__dict__.pop("knowledge", None)

    @functools.cached_property
    def knowledge(self) -> Knowledge:
        """The outputs on the clean training part; computed at the first use."""
        self.context.phase(PHASE)
        with self.clock.measure("teacher"):
            return compute_clean_knowledge(
                self.source,
                self.batches,
                self.replicas,
                self.features or self.retrieval is not None,
                self._find_neighbours if self.retrieval else None,
            )

    def _find_neighbours(self, knowledge: Knowledge, positives: int, negatives: int) -> Neighbours:
        assert self.retrieval is not None
        with self.clock.measure("retrieval"):
            return self.retrieval(knowledge, positives, negatives)

    def open_view(self, view: int | None) -> None:
        """Open a view of the training part; the clean one is None."""
        self.context.phase(PHASE)
        with self.clock.measure("teacher"):
            if self.uses_outputs:
                clean = view is None
                self.source.open_view(view, self.features and clean, bool(self.stages) and clean)

    def compute_output(self, batch: Inputs) -> Output | None:
        """Return the outputs on a batch of the open view, or None if the method uses none."""
        return self.source.answer(batch) if self.uses_outputs else None

    def validation_predictions(self, context: TrialContext) -> Tensor:
        """Return the classes of this rank's share of the validation part."""
        return compute_validation_predictions(self.network, self.batches, context)

    def state_dict(self) -> State:
        """Return the weights that the trial has changed; {} for a teacher of the store."""
        return dict(self.single.network.state_dict()) if self.changed else {}

    def change(self, network: FrozenTeacher) -> None:
        """Use another teacher; its outputs on recurring views are cached for this trial alone."""
        self.network, self.changed = network, True
        self.remove_own_outputs()
        configuration = self.spec.configuration
        if self.batches.views.varies and views(configuration) >= configuration.training.epochs:
            self.source = OnlineTeacher(network, self.stages)
        else:
            own = self.spec.knowledge and self.spec.folder / KNOWLEDGE
            spec = self.spec.model_copy(update={"knowledge": own})
            self.source = self._build_source(spec, network)

    def remove_own_outputs(self) -> None:
        """Remove the cached outputs of the trial's own teachers: no other trial can use them."""
        if not self.changed:
            return
        self.context.all_gather_object(None)  # afterwards no rank reads them
        if self.context.is_main_process:
            shutil.rmtree(self.spec.folder / KNOWLEDGE, ignore_errors=True)
        self.context.all_gather_object(None)
