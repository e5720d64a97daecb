"""Execute a specification in a worker: train a trial, fill the cache, or evaluate the teacher."""

from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import Stopped, TrialContext
from orchestrator.store.staging import stage_on_node
from orchestrator.training._precompute import precompute_view
from orchestrator.training._teacher_evaluation import evaluate_teacher
from orchestrator.training._trainer import train

WORK = {"student": train, "teacher": train, "fill": precompute_view, "evaluate": evaluate_teacher}


def execute(spec: TrialSpec, context: TrialContext) -> None:
    """Execute the role of the specification; all ranks of a group call this together."""
    try:
        local_spec = stage_on_node(spec, context)
    except Stopped:  # during the wait for the store
        return
    WORK[spec.role](local_spec, context)
