"""Compare the needs of a configuration with the available cores and memory before a run starts."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchestrator.config.schema import Configuration
from orchestrator.config.sizes import format_bytes
from orchestrator.core.errors import ConfigurationError

# Threads of a worker, or image decoding processes; more of them only contend for the cores.
PROCESSES_PER_CORE = 4
BYTES = 4  # bytes of a float32
# Copies of the trained parameters: weights, gradient, two moments, best weights.
TRAINED = 5
BATCHES = 3  # copies of a batch: as read, augmented, and as input of the network


class Sizes(NamedTuple):
    """Measured sizes: parameters of all students and all teachers, and numbers of a sample."""

    students: int
    teacher: int
    sample: int


def require_cores(configuration: Configuration, nodes: Sequence[Mapping[str, float]]) -> None:
    """Require that no worker has many more threads or processes than the largest node has cores.

    Args:
        configuration: The configuration of the run.
        nodes: The resources of each node under Ray's names; without CPUs nothing is checked.

    Raises:
        ConfigurationError: A worker has more than `PROCESSES_PER_CORE` for each core.
    """
    cores = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
    if not cores:
        return
    resources, most = configuration.resources, int(max(cores, 1) * PROCESSES_PER_CORE)
    requested = {"resources.threads_per_worker": resources.threads_per_worker}
    for letter, peer in configuration.peers.items():
        requested[f"peers.{letter}.threads_per_worker"] = peer.threads_per_worker or 0
    if configuration.data.is_decoded_each_epoch:
        requested["data.loader_workers"] = configuration.data.loader_workers
    for key, count in requested.items():
        if count > most:
            raise ConfigurationError(
                f"{key} = {count} is more than {PROCESSES_PER_CORE} per core of the largest node, "
                f"which has {cores:g} cores: give at most {most}"
            ).with_details(key, count, (0, most))


def require_memory(configuration: Configuration, sizes: Sizes, memory_bytes: int) -> None:
    """Require enough memory for the networks and a batch of one group's workers.

    Args:
        configuration: Determines the workers of a student, and their batch.
        sizes: The measured sizes of networks and data.
        memory_bytes: The memory of this machine in bytes; 0 if unknown.

    Raises:
        ConfigurationError: The estimate exceeds `memory_bytes`.
    """
    batch, workers = configuration.training.batch_size, configuration.resources.workers
    needed = {
        "student": configuration.replicas * TRAINED * BYTES * sizes.students,
        "teachers" if configuration.teachers else "teacher.network": workers
        * BYTES
        * sizes.teacher,
        "training.batch_size": BATCHES * BYTES * batch * sizes.sample,
    }
    total = sum(needed.values())
    if memory_bytes and total > memory_bytes:
        parts = ", ".join(f"{format_bytes(each)} for {key}" for key, each in needed.items() if each)
        largest = max(needed, key=lambda key: needed[key])
        raise ConfigurationError(
            f"{largest} is too large: a worker group needs at least {format_bytes(total)} of "
            f"memory ({parts}), but this machine has {format_bytes(memory_bytes)}: "
            f"reduce {largest}"
        ).with_details(largest, total, (0, memory_bytes))
