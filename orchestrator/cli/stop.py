"""Stop a job of a running cluster, or a run whose driver is a process of this machine."""

from pathlib import Path

from orchestrator.cli._comparisons import resume_command
from orchestrator.cli._jobs import print_line, print_resume_command
from orchestrator.cli._names import find_comparison, find_owner
from orchestrator.cluster.jobs import Cluster
from orchestrator.core import errors
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.program import program_name
from orchestrator.store.records import Sweep
from orchestrator.store.run_lock import stop_driver
from orchestrator.store.store import Store


def stop_run(name: str, store: Path | str, address: str | None) -> int:
    """Stop the driver of a sweep or a comparison on this machine; return the exit code.

    Args:
        name: Name of the sweep or the comparison.
        store: Folder or URI of the store.
        address: Must be None, because it selects a job of a cluster.

    Raises:
        ConfigurationError: There is no such run, or its driver runs on another machine.
        PreflightError: The driver has not ended in time.
    """
    if address is not None:
        raise ConfigurationError(
            "--store stops a process of this machine, and --address a job of a cluster: give one "
            "of them"
        ).with_details("--store", str(store), "without --address")
    opened = Store.existing(store)
    comparison = find_comparison(opened, name)
    folder = comparison.folder if comparison else Sweep.open(opened, name).folder
    was_running = stop_driver(folder)
    print_line(f"{name}: " + ("stopped" if was_running else "no process runs it"))
    if was_running:
        owner = name if comparison else find_owner(opened, name)
        again = (
            resume_command(opened, owner)
            if owner
            else f"{program_name()} sweep --resume {name}{opened.option}"
        )
        print_line(f"  resume: {again}")
    return errors.OK


def stop(name: str, address: str | None) -> int:
    """Stop a job, wait until it has ended, and print the command that resumes its run."""
    cluster = Cluster(address)
    job, was_running = cluster.stop(name)
    print_line(f"{name}: {job.state}" + ("" if was_running else ", it had already ended"))
    print_resume_command(cluster, job)
    return errors.OK
