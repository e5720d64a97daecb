"""Check the workers and resources of several students."""

from orchestrator.config.plan import SETTINGS
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError


def check_peers(configuration: Configuration) -> None:
    """Raise ConfigurationError if workers cannot be divided among students.

    The same holds for a setting without meaning for these students and workers.
    """
    resources, students = configuration.resources, len(configuration.students)
    if not configuration.peers:
        if resources.peer_placement:
            raise ConfigurationError(
                f"resources.peer_placement = {resources.peer_placement!r} has no meaning with "
                f"one student: leave it out, or give "
                "peers.b.network.name",
                field="resources.peer_placement",
                value=resources.peer_placement,
                allowed=(None,),
            )
    elif not configuration.colocated:
        if resources.workers % students:
            raise ConfigurationError(
                f"resources.workers = {resources.workers} cannot be shared by {students} "
                f"students: give a multiple of {students}, "
                "or resources.peer_placement=colocated with one worker",
                field="resources.workers",
                value=resources.workers,
                allowed=f"a multiple of {students}",
            )
    elif resources.workers > 1:
        raise ConfigurationError(
            "resources.peer_placement = 'colocated' trains all students in one worker, and "
            "resources.workers = "
            f"{resources.workers}: "
            "give 1, or resources.peer_placement=actors",
            field="resources.workers",
            value=resources.workers,
            allowed=(1, 1),
        )
    else:
        _require_shared_resources(configuration)


def require_one_process(configuration: Configuration) -> None:
    """Raise ConfigurationError if `--local` must train students that need their own workers."""
    if configuration.peers and not configuration.colocated:
        raise ConfigurationError(
            f"--local trains all students in this process, and resources.workers = "
            f"{configuration.resources.workers}: "
            "set resources.workers=1 (and no resources.peer_placement=actors), or leave "
            "--local out",
            field="--local",
            value=True,
            allowed="with resources.workers = 1",
        )


def _require_shared_resources(configuration: Configuration) -> None:
    students = len(configuration.students)
    for letter, peer in configuration.peers.items():
        for key in (*SETTINGS.values(), "threads_per_worker"):
            if getattr(peer, key) is not None:
                raise ConfigurationError(
                    f"peers.{letter}.{key} = {getattr(peer, key):g} has no meaning where one "
                    f"worker trains all students: give "
                    f"resources.{key}, or workers of their own with resources.workers={students}",
                    field=f"peers.{letter}.{key}",
                    value=getattr(peer, key),
                    allowed=(None,),
                )
