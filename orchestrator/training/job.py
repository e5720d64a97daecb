"""What a worker does with a specification: train a trial, or fill the cache. Knows the roles alone."""

from orchestrator.context import TrialContext
from orchestrator.nodes import on_this_node
from orchestrator.training.filling import fill
from orchestrator.training.trainer import train
from orchestrator.trial import TrialSpec


def work(spec: TrialSpec, context: TrialContext) -> None:
    """Do what the role of the specification says; all ranks of a group call this together."""
    (fill if spec.role == "fill" else train)(on_this_node(spec, context), context)
