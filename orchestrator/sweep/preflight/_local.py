"""Refuse what needs Ray in a run without it, and describe its processes."""

import torch

from orchestrator.config.resources import local_resources
from orchestrator.config.schema import PAUSING, Configuration
from orchestrator.core.errors import ConfigurationError


def check_local(configuration: Configuration, kind: str) -> None:
    """Raise ConfigurationError if a run without Ray needs several workers or pauses trials.

    A single training without peers may have several workers: it trains with one.
    """
    resources, search = configuration.resources, configuration.search
    if kind != "teacher" and configuration.peers and not configuration.colocated:
        raise ConfigurationError(
            f"a run without Ray trains all students in one process, but resources.workers "
            f"= {resources.workers} and resources.peer_placement = "
            f"{resources.peer_placement or 'null'} give them separate workers: set "
            f"resources.workers=1 and leave resources.peer_placement out, or train with Ray"
        ).with_details("resources.workers", resources.workers, (1, 1))
    if kind != "sweep":
        return
    if resources.workers > 1:
        raise ConfigurationError(
            f"a run without Ray trains each trial in one process, but resources.workers = "
            f"{resources.workers}: set resources.workers=1, or train with Ray"
        ).with_details("resources.workers", resources.workers, (1, 1))
    if search.scheduler in PAUSING:
        raise ConfigurationError(
            f"search.scheduler = {search.scheduler!r} pauses trials, which needs Ray: set asha, "
            f"median or none, or train with Ray"
        ).with_details("search.scheduler", search.scheduler, ("asha", "median", "none"))


def describe_processes(processes: int) -> tuple[str, bool, int]:
    """Return where a run without Ray trains, whether it has a GPU, and its number of processes."""
    if processes == 1:
        text = "none: training runs in this process"
    else:
        cpus = int(local_resources()["CPU"])
        text = f"none: training runs in {processes} processes, which share {cpus} CPUs"
    return text, torch.cuda.is_available(), processes
