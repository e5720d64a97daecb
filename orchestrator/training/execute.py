"""What a worker does with a specification: train a trial, fill the cache, or evaluate the teacher. Knows the roles alone."""

from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import Stopped, TrialContext
from orchestrator.store.staging import on_this_node
from orchestrator.training._precompute import fill
from orchestrator.training._teacher_evaluation import evaluate_teacher
from orchestrator.training._trainer import train

WORK = {"student": train, "teacher": train, "fill": fill, "evaluate": evaluate_teacher}


def work(spec: TrialSpec, context: TrialContext) -> None:
    """Do what the role of the specification says; all ranks of a group call this together."""
    try:
        here = on_this_node(spec, context)
    except Stopped:  # while the store was waited for
        return
    WORK[spec.role](here, context)
