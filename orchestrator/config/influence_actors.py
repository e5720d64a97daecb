"""How many influence actors stand beside a worker group, given what is trained. Knows the methods; nothing of Ray."""

from orchestrator.config import plan
from orchestrator.config.method_variants import all_forms
from orchestrator.config.schema import Configuration


def aides(configuration: Configuration, kind: str) -> int:
    """Those of each group of a `sweep` or a `train`ing; none where no method weighs samples, as when a `teacher` is brought."""
    if kind == "teacher":
        return 0
    weighs = any(method.needs.weights for method in all_forms(configuration, kind == "sweep"))
    return plan.influence_actors(configuration) if weighs else 0
