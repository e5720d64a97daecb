"""Count the influence actors of a worker group."""

from methods.capabilities import WeightsSamples
from orchestrator.config import plan
from orchestrator.config.method_variants import build_all_variants
from orchestrator.config.schema import Configuration


def count_influence_actors(configuration: Configuration, kind: str) -> int:
    """Return the number of influence actors of each group; 0 if no method weights samples.

    Args:
        configuration: The configuration of the run.
        kind: The kind of run: `sweep`, `train`, or `teacher`, which has no influence actors.
    """
    if kind == "teacher":
        return 0
    weighs = any(
        isinstance(method, WeightsSamples)
        for method in build_all_variants(configuration, kind == "sweep")
    )
    return plan.influence_actors_per_group(configuration) if weighs else 0
