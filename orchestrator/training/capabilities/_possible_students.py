"""Build every network that a student of a run may have, to check it before the run."""

from collections.abc import Iterator, Sequence

from orchestrator.config.extra_space import networks
from orchestrator.config.schema import Configuration
from orchestrator.models.build import build_on_meta
from orchestrator.models.network import Network


def possible_students(
    configuration: Configuration, searching: bool, classes: int, shape: Sequence[int]
) -> Iterator[tuple[str, Network]]:
    """Yield every network that a student may have, with its key, without allocating memory."""
    for kinds in networks(configuration, searching).values():
        for field, network in kinds.items():
            yield field, build_on_meta(network.name, classes, shape, network.settings)
