"""Check the workers and resources of several students."""

from orchestrator.config.plan import SETTINGS
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError


def check_peers(configuration: Configuration) -> None:
    """Raise ConfigurationError if workers cannot be divided among students.

    The same holds for a setting that has no effect with these students and workers.
    """
    resources, students = configuration.resources, len(configuration.students)
    if not configuration.peers:
        if resources.peer_placement:
            raise ConfigurationError(
                f"resources.peer_placement = {resources.peer_placement!r} has no effect with one "
                f"student: leave it out, or set peers.b.network.name"
            ).with_details("resources.peer_placement", resources.peer_placement, (None,))
    elif not configuration.colocated:
        if resources.workers % students:
            raise ConfigurationError(
                f"resources.workers = {resources.workers} cannot be divided among {students} "
                f"students: give a multiple of {students}, or set "
                f"resources.peer_placement=colocated and resources.workers=1"
            ).with_details("resources.workers", resources.workers, f"a multiple of {students}")
    elif resources.workers > 1:
        raise ConfigurationError(
            f"resources.peer_placement = 'colocated' trains all students in one worker, but "
            f"resources.workers = {resources.workers}: set resources.workers=1, or "
            f"resources.peer_placement=actors"
        ).with_details("resources.workers", resources.workers, (1, 1))
    else:
        _require_shared_resources(configuration)


def _require_shared_resources(configuration: Configuration) -> None:
    students = len(configuration.students)
    for letter, peer in configuration.peers.items():
        for key in (*SETTINGS.values(), "threads_per_worker"):
            if getattr(peer, key) is not None:
                raise ConfigurationError(
                    f"peers.{letter}.{key} = {getattr(peer, key):g} has no effect if one worker "
                    f"trains all students: set resources.{key}, or give each student its own "
                    f"worker with resources.workers={students}"
                ).with_details(f"peers.{letter}.{key}", getattr(peer, key), (None,))
