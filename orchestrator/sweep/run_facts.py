"""Find the properties of the methods and the teacher of a run that its driver needs."""

from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.schema import Configuration
from orchestrator.store.store import Store


@dataclass(frozen=True)
class RunFacts:
    """Properties of a run that follow from its methods and networks.

    The driver of a run imports no torch if the process that has checked the run has found them.

    Attributes:
        influence_actors: Influence actors of each worker group.
        uses_teacher: Whether a method uses outputs of the teacher.
        teachers: Folder of each teacher, which may not exist yet.
    """

    influence_actors: int
    uses_teacher: bool
    teachers: tuple[Path, ...]


def find_facts(store: Store, configuration: Configuration, kind: str, data: Path) -> RunFacts:
    """Return the facts of a checked run; this imports torch.

    Args:
        store: The store of the run.
        configuration: The configuration of the run.
        kind: "sweep" or "train".
        data: Folder of the prepared data.
    """
    from orchestrator.config.influence_actors import count_influence_actors
    from orchestrator.config.method_variants import build_all_variants
    from orchestrator.teacher.fit import teacher_folder

    teachers = configuration.of_each_teacher().values()
    needs = [method.needs for method in build_all_variants(configuration, kind == "sweep")]
    return RunFacts(
        count_influence_actors(configuration, kind),
        any(each.teacher or each.features for each in needs),
        tuple(teacher_folder(store, single, data) for single in teachers),
    )
