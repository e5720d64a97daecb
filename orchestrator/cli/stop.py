"""Stop a job of a running cluster."""

from orchestrator.cli._jobs import print_line, print_resume_command
from orchestrator.cluster.jobs import Cluster
from orchestrator.core import errors


def stop(name: str, address: str | None) -> int:
    """Stop a job, wait until it has ended, and print the command that resumes its run."""
    cluster = Cluster(address)
    job, was_running = cluster.stop(name)
    print_line(f"{name}: {job.state}" + ("" if was_running else ", it had already ended"))
    print_resume_command(cluster, job)
    return errors.OK
