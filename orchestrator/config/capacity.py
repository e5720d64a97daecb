"""Compare what a configuration asks for with the cores and the memory that there are, before anything is built."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchestrator.config.schema import Configuration
from orchestrator.config.sizes import size
from orchestrator.core.errors import ConfigurationError

PROCESSES_PER_CORE = 4  # threads of a worker, or processes that decode images: more only wait for one another
BYTES = 4  # of a float32
TRAINED = 5  # copies of the parameters that are trained: weights, gradient, two moments, best weights
BATCHES = 3  # copies of a batch: as it was read, augmented, and on its way to the network


class Sizes(NamedTuple):
    """What was measured: parameters of all students and of the teacher, and the numbers of one sample."""

    students: int
    teacher: int
    sample: int


def require_cores(configuration: Configuration, nodes: Sequence[Mapping[str, float]]) -> None:
    """ConfigurationError when a worker would have many more threads or processes than the largest node has cores."""
    cores = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    if not cores:
        return
    resources, most = configuration.resources, int(max(cores, 1) * PROCESSES_PER_CORE)
    asked = {"resources.threads_per_worker": resources.threads_per_worker}
    for letter, peer in configuration.peers.items():
        asked[f"peers.{letter}.threads_per_worker"] = peer.threads_per_worker or 0
    if configuration.data.name == "folder":
        asked["data.loader_workers"] = configuration.data.loader_workers
    for key, count in asked.items():
        if count > most:
            raise ConfigurationError(
                f"{key} = {count} is more than {PROCESSES_PER_CORE} for each of {cores:g} cores: give at most {most}",
                field=key,
                value=count,
                allowed=(0, most),
            )


def require_memory(configuration: Configuration, sizes: Sizes, memory_bytes: int) -> None:
    """ConfigurationError when the workers of one group cannot hold their networks and a batch.

    Args:
        configuration: Says how many workers train a student, and their batch.
        sizes: What was measured of networks and data.
        memory_bytes: Of this machine; 0: not known.
    """
    batch, workers = configuration.training.batch_size, configuration.resources.workers
    needed = {
        "student": configuration.replicas * TRAINED * BYTES * sizes.students,
        "teacher.network": workers * BYTES * sizes.teacher,
        "training.batch_size": BATCHES * BYTES * batch * sizes.sample,
    }
    total = sum(needed.values())
    if memory_bytes and total > memory_bytes:
        parts = ", ".join(f"{size(each)} for {key}" for key, each in needed.items() if each)
        largest = max(needed, key=lambda key: needed[key])
        raise ConfigurationError(
            f"{largest} is too large: a group would take at least {size(total)} of memory ({parts}), and this machine has "
            f"{size(memory_bytes)}: make {largest} smaller",
            field=largest,
            value=total,
            allowed=(0, memory_bytes),
        )
