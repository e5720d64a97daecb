"""How many influence actors stand beside a worker group, given what is trained. Knows the methods; nothing of Ray."""

from methods import METHODS
from orchestrator import plan
from orchestrator.config import Configuration
from orchestrator.sweep.space import searched


def aides(configuration: Configuration, kind: str) -> int:
    """Those of each group of a `sweep` or a `train`ing; none where no method weighs samples, as when a `teacher` is brought."""
    if kind == "teacher":
        return 0
    methods = searched(configuration) if kind == "sweep" else (configuration.method.name,)
    return plan.influence_actors(configuration) if any(METHODS[name].needs.weights for name in methods) else 0
