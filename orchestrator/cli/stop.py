"""Stop a job of a running cluster."""

from orchestrator.cli._jobs import print_line, print_resume_command
from orchestrator.cluster.jobs import Cluster
from orchestrator.core import errors


def stop(name: str, address: str | None) -> int:
    """Stop a job, wait until it has ended, and print the command that resumes its run."""
    cluster = Cluster(address)
    found, was_running = cluster.stop(name)
    print_line(f"{name}: {found.state}" + ("" if was_running else ", before it was told to stop"))
    print_resume_command(cluster, found)
    return errors.OK
