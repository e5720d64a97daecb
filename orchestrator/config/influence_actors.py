"""How many influence actors stand beside a worker group, given what is trained. Knows the methods; nothing of Ray."""

from orchestrator.config import plan
from orchestrator.config.method_variants import build_all_variants
from orchestrator.config.schema import Configuration


def count_influence_actors(configuration: Configuration, kind: str) -> int:
    """Those of each group of a `sweep` or a `train`ing; none where no method weighs samples, as when a `teacher` is brought."""
    if kind == "teacher":
        return 0
    weighs = any(method.needs.weights for method in build_all_variants(configuration, kind == "sweep"))
    return plan.influence_actors(configuration) if weighs else 0
